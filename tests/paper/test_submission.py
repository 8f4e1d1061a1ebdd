from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from sklearn.svm import SVC

from conftest import make_split, write_file
from fishing.errors import EvaluationError, StoreError
from fishing.paper import write_submission


@pytest.fixture
def path(tmp_path: Path, rng) -> Path:
    def split(n: int, failed: tuple[int, ...] = ()) -> object:
        return dataclasses.replace(make_split(rng, n, failed=failed), devkit="VOC2012")

    unlabelled = {"labels": None, "classes": (), "failed_labels": None}
    test = dataclasses.replace(split(30, (3, 29)), **unlabelled)
    return write_file(
        tmp_path / "f.h5", train=split(300), val=split(41, (5,)), test=test
    )


def _files(archive: Path) -> dict[str, list[str]]:
    with tarfile.open(archive) as tar:
        return {
            m.name: tar.extractfile(m).read().decode().splitlines()
            for m in tar.getmembers()
        }


def test_the_archive(path: Path, tmp_path: Path) -> None:
    archive = write_submission(path, tmp_path / "s.tar.gz", feature="x7")
    files = _files(archive)
    folder = "results/VOC2012/Main"
    assert list(files) == [f"{folder}/comp2_cls_test_{c}.txt" for c in ("cat", "dog")]
    for lines in files.values():
        assert [line.split()[0] for line in lines] == [f"im{i:04d}" for i in range(32)]
        scores = np.array([float(line.split()[1]) for line in lines])
        assert np.isfinite(scores).all()
        assert set(np.argsort(scores)[:2]) == {3, 29}  # images that could not be read


def test_both_splits_are_learnt_from(path: Path, tmp_path: Path) -> None:
    with h5py.File(path) as file:
        x, y = (
            np.concatenate([file[f"{split}/{name}"][:] for split in ("train", "val")])
            for name in ("forward/x7", "labels")
        )
        x_test = file["test/forward/x7"][:]
    x, x_test = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, x_test))
    files = _files(write_submission(path, tmp_path / "s.tar.gz", feature="x7"))
    for column, lines in enumerate(files.values()):
        svm = SVC(kernel="linear", tol=1e-9).fit(x, y[:, column])
        found = np.delete([float(line.split()[1]) for line in lines], (3, 29))
        # The tolerance of 1e-3 at which LIBSVM stops leaves some thousandths.
        np.testing.assert_allclose(found, svm.decision_function(x_test), atol=1e-2)


def test_equal_bytes_without_clock_or_user(path: Path, tmp_path: Path) -> None:
    one, two = (
        write_submission(path, tmp_path / f"{n}.tar.gz").read_bytes() for n in "ab"
    )
    assert one == two
    with tarfile.open(fileobj=io.BytesIO(one)) as tar:
        for member in tar.getmembers():
            assert (member.mtime, member.uid, member.uname) == (0, 0, "")
            assert member.isfile()
    assert one[4:8] == bytes(4)  # the time in gzip's header


def test_what_is_there_is_left_alone(path: Path, tmp_path: Path) -> None:
    archive = write_submission(path, tmp_path / "s.tar.gz")
    record = json.loads((tmp_path / "s.json").read_text())
    assert record["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert (record["feature"], record["train"]) == ("dW7", ["train", "val"])
    before = archive.stat().st_mtime_ns
    write_submission(path, archive)
    assert archive.stat().st_mtime_ns == before
    write_submission(path, archive, C=2.0)
    assert archive.stat().st_mtime_ns > before
    archive.write_bytes(b"damaged")
    write_submission(path, archive, C=2.0)
    assert _files(archive)


@pytest.mark.parametrize("record", [b"[" * 99_999, b"{}", b"\xff", b'"\\ud800"', None])
def test_a_malformed_record_is_replaced(
    path: Path, tmp_path: Path, record: bytes | None
) -> None:
    archive = write_submission(path, tmp_path / "s.tar.gz")
    expected = (tmp_path / "s.json").read_bytes()
    (tmp_path / "s.json").unlink()
    if record is None:
        os.mkfifo(tmp_path / "s.json")
    else:
        (tmp_path / "s.json").write_bytes(record)
    write_submission(path, archive)
    assert (tmp_path / "s.json").read_bytes() == expected


def test_mistakes(path: Path, tmp_path: Path, rng) -> None:
    with pytest.raises(StoreError, match="expected a split 'trainval'"):
        write_submission(path, tmp_path / "s.tar.gz", train=["trainval"])
    with pytest.raises(EvaluationError, match="only labelled splits"):
        write_submission(path, tmp_path / "s.tar.gz", train=["test"])
    (tmp_path / "file").touch()
    with pytest.raises(EvaluationError, match="choose another --output"):
        write_submission(path, tmp_path / "file" / "s.tar.gz", feature="x8")
    with pytest.raises(EvaluationError, match="expected backward/y5, which dW5 is"):
        write_submission(path, tmp_path / "s.tar.gz", feature="dW5")
    other = make_split(rng, 20, classes=("cat", "cow"))
    two = write_file(
        tmp_path / "two.h5", train=make_split(rng, 20), val=other, test=other
    )
    with pytest.raises(EvaluationError, match="expected the same classes"):
        write_submission(two, tmp_path / "s.tar.gz")
    assert not list(tmp_path.glob("s.*"))
