from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVC
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator

import fishing
from conftest import SETTINGS, explicit_features, make_split, write_file
from fishing import GradientFeatures, TraceKernel
from fishing.errors import DataError, EvaluationError, FishingError, NetError
from fishing.extract import extract
from fishing.images import read_splits
from fishing.kernels import FEATURES
from fishing.nets import load_net
from fishing.store import ExtractionSettings, storage_settings, write_features


@pytest.fixture
def train(rng):
    split = make_split(rng, 40, labels=None)
    # Blobs differ in width, so narrow parts are padded.
    for i, name in enumerate(sorted(split.blobs)):
        split.blobs[name] = rng.normal(size=(40, 5 + i)).astype(np.float32)
    return split


def _some(split, rows: slice):
    return {name: blob[rows] for name, blob in split.blobs.items()}


@pytest.mark.parametrize(
    "feature", [*FEATURES, "dW6+dW7", "x7+dW8", "x7*x6", "x7*x7", "x5*x6*y8+dW7"]
)
def test_the_kernel_of_paired_rows_is_that_of_explicit_features(train, feature) -> None:
    X = fishing.paired(feature, train)
    assert X.dtype == np.float32
    explicit = explicit_features(train, feature)
    kernel = TraceKernel(feature)
    np.testing.assert_allclose(kernel(X), explicit @ explicit.T, atol=3e-7)
    np.testing.assert_allclose(kernel(X[:7], X), explicit[:7] @ explicit.T, atol=3e-7)
    # BLAS may round columns of padding in another way.
    np.testing.assert_allclose(
        kernel(X[:7], X),
        fishing.gram(feature, _some(train, slice(7)), train),
        atol=3e-7,
    )


def test_an_svm_on_it_is_one_on_explicit_features(train, rng) -> None:
    y = rng.choice(["cat", "dog", "eel"], 40)
    X, explicit = fishing.paired("dW7", train), explicit_features(train, "dW7")
    ours = SVC(kernel=TraceKernel("dW7"), C=10).fit(X[:30], y[:30])
    theirs = SVC(kernel="linear", C=10).fit(explicit[:30], y[:30])
    np.testing.assert_allclose(
        ours.decision_function(X), theirs.decision_function(explicit), atol=2e-3
    )
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(ours.predict(X), again.predict(X))


def test_grid_search_over_the_kernel(train, rng) -> None:
    y = rng.choice([-1, 1], 40)
    X = fishing.paired("dW7", train)
    svm = Pipeline([("svm", SVC(kernel=TraceKernel()))])
    grid = {"svm__C": [1, 10], "svm__kernel__feature": ["dW7", "x6+x7"]}
    search = GridSearchCV(svm, grid, cv=3, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 4
    best = search.best_estimator_.named_steps["svm"].kernel
    assert best.feature == search.best_params_["svm__kernel__feature"]
    with_explicit = GridSearchCV(
        SVC(kernel="linear"), {"C": [1, 10]}, cv=3, error_score="raise"
    ).fit(explicit_features(train, "dW7"), y)
    ours = [
        score
        for score, params in zip(
            search.cv_results_["mean_test_score"],
            search.cv_results_["params"],
            strict=True,
        )
        if params["svm__kernel__feature"] == "dW7"
    ]
    np.testing.assert_allclose(ours, with_explicit.cv_results_["mean_test_score"])


def test_clones() -> None:
    svm = clone(SVC(kernel=TraceKernel("dW6")))
    assert svm.kernel.feature == "dW6"
    assert clone(TraceKernel("x7")).get_params() == {"feature": "x7"}
    changed = clone(GradientFeatures()).set_params(feature="x8", temperature=4)
    assert changed.get_params() == {
        **GradientFeatures().get_params(),
        "feature": "x8",
        "temperature": 4,
    }


@pytest.mark.filterwarnings("ignore:Can't test estimator GradientFeatures")
def test_check_estimator() -> None:
    # These are its checks for estimators whose input is not a table of numbers.
    for outcome in check_estimator(GradientFeatures(), on_fail="raise"):
        assert outcome["status"] == "passed"


# The other checks of scikit-learn fit random tables of numbers. GradientFeatures takes
# images, and TraceKernel, a kernel like those of sklearn.metrics.pairwise, has no fit.
CHECKS = [
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("estimator", [GradientFeatures(), TraceKernel()])
def test_checks_of_scikit_learn(estimator, check: str) -> None:
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)


@pytest.fixture(scope="module")
def features(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "features.h5"
    extract(
        ExtractionSettings(load_net("tinyalexnet")),
        read_splits(devkit, ["trainval", "test"]),
        path,
    )
    return path


def _paths(devkit: Path, split) -> list[Path]:
    return [devkit / "JPEGImages" / f"{i}.jpg" for i in split.image_id]


@pytest.mark.parametrize("backend", ["auto", "caffe"])
def test_images_become_the_rows_of_an_extraction(
    features: Path, devkit: Path, backend: str
) -> None:
    test = fishing.load(str(features))["test"]
    paths = _paths(devkit, test)
    pictures = [cv2.imread(str(path))[..., ::-1] for path in paths]
    transformer = GradientFeatures(feature="dW6", backend=backend, batch_size=5)
    expected = fishing.paired("dW6", test)
    for images in (paths, list(map(str, paths)), np.array(paths, str), pictures):
        X = transformer.fit_transform(images)
        assert X.dtype == np.float32
        scale = np.abs(expected).max(axis=0) + 1e-12
        np.testing.assert_allclose(X / scale, expected / scale, atol=2e-4)
    stacked = transformer.transform(np.stack(pictures))
    np.testing.assert_array_equal(stacked, transformer.transform(pictures))


def test_from_images_to_classes(features: Path, devkit: Path) -> None:
    file = fishing.load(features)
    train, test = file["trainval"], file["test"]
    warm = train.classes.index("warm")
    model = make_pipeline(GradientFeatures(), SVC(kernel=TraceKernel(), C=1))
    model.fit(_paths(devkit, train), train.labels[:, warm])
    found = model.decision_function(_paths(devkit, test))
    K = fishing.gram("dW7", train)
    svm = SVC(kernel="precomputed", C=1).fit(K, train.labels[:, warm])
    expected = svm.decision_function(fishing.gram("dW7", test, train))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert model.score(_paths(devkit, test), test.labels[:, warm]) > 0.9


def test_grey_pictures(rng) -> None:
    grey = rng.integers(0, 256, (70, 80), dtype=np.uint8)
    both = GradientFeatures().transform([grey, np.dstack([grey] * 3)])
    np.testing.assert_array_equal(both[0], both[1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "expected one image or more, found none"),
        ("photo.jpg", "found one path, 'photo.jpg'; put it in a list"),
        (["none.jpg"], "expected an image, found 'none.jpg': No such file"),
        (np.zeros((2, 9, 9, 3)), "pictures of uint8, found values of type float64"),
        (np.zeros((2, 9, 9, 4), np.uint8), r"shape \(9, 9, 4\); .* the alpha"),
        (np.zeros((70, 90, 3), np.uint8), "found one picture, .*put it in a list"),
        (Image.new("RGB", (9, 9)), "found one Image; put it in a list"),
        (None, "found one NoneType"),
        ([None], "found 'None' of type NoneType; give one path or picture"),
        (np.array([["a.jpg"], ["b.jpg"]]), "give one path or picture for each image"),
        (SimpleNamespace(columns=["path"]), "found a table; name the column"),
        (np.zeros((2, 0, 9, 3), np.uint8), r"shape \(0, 9, 3\)"),
    ],
)
def test_what_is_no_image(images, message: str) -> None:
    with pytest.raises(DataError, match=message):
        GradientFeatures().transform(images)


def test_parameters_that_cannot_be() -> None:
    with pytest.raises(NetError, match="expected one of the nets"):
        GradientFeatures(net="lenet").fit([])
    for parameters in (
        {"feature": "x9"},
        {"backend": "torch"},
        {"device": "cuda"},
        {"temperature": 0},
        {"batch_size": 0},
    ):
        with pytest.raises(FishingError, match="expected a"):
            GradientFeatures(**parameters).fit([])
    for parameters in ({"temperature": -1}, {"batch_size": 0}):
        with pytest.raises(NetError, match="expected a"):
            GradientFeatures(**parameters).transform([np.zeros((9, 9), np.uint8)])
    with pytest.raises(EvaluationError, match=r"rows of 2 parts of dW7.*\(3, 5\)"):
        TraceKernel("dW7")(np.ones((3, 5)))
    with pytest.raises(EvaluationError, match="expected a feature"):
        TraceKernel("w7")(np.ones((3, 4)))


def test_load_reads_blobs_when_they_are_sliced(tmp_path: Path, rng) -> None:
    split = make_split(rng, 5, failed=(1,))
    path = write_file(tmp_path / "f.h5", test=split)
    found = fishing.load(path)["test"]
    assert found.image_id == split.image_id
    np.testing.assert_array_equal(found.labels, split.labels)
    for name, rows in found.blobs.items():
        assert not isinstance(rows, np.ndarray)
        np.testing.assert_array_equal(rows[1:3], split.blobs[name][1:3])
    with pytest.raises(FishingError, match="expected a split 'val', found test"):
        fishing.load(path)["val"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_loaded_is_like_arrays(tmp_path: Path, rng, dtype: str) -> None:
    split = make_split(rng, 5, failed=(1,))
    path = tmp_path / "f.h5"
    write_features(path, {**SETTINGS, **storage_settings(dtype)}, {"test": split})
    file = fishing.load(path)
    assert list(file) == ["test"]
    assert "test" in file
    assert "val" not in file
    assert repr(file) == f"<FeaturesFile '{path}': tinyalexnet, test (5)>"
    assert repr(file["test"]) == "<Split: 5 images, 1 failed, 2 classes>"
    rows = file["test"].blobs["forward/x6"]
    assert repr(rows) == "<float32 rows of /test/forward/x6, shape (5, 6)>"
    assert (rows.ndim, len(rows)) == (2, 5)
    everything = np.asarray(rows)
    assert everything.dtype == np.float32
    np.testing.assert_array_equal(everything, rows[:])
    assert np.asarray(rows, np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.linalg.norm(rows, axis=1).shape, 5)


def test_what_has_no_kernel(tmp_path: Path, rng) -> None:
    path = write_file(tmp_path / "f.h5", test=make_split(rng, 5))
    for images in (str(path), fishing.load(path), np.ones((3, 4))):
        with pytest.raises(EvaluationError, match="expected a split of a features"):
            fishing.gram("dW7", images)
    with pytest.raises(EvaluationError, match="expected a split of a features"):
        fishing.gram(fishing.load(path)["test"], "dW7")


def test_import_is_fast() -> None:
    code = """
import sys, fishing
assert fishing.__version__
heavy = {"numpy", "sklearn", "h5py", "cv2", "onnxruntime"} & set(sys.modules)
assert not heavy, heavy
assert set(fishing.__all__) <= set(dir(fishing))
from fishing import *
assert GradientFeatures.__module__ == "fishing.evaluate.estimators"
try:
    fishing.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
