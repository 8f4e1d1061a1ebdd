"""Archives for the PASCAL VOC evaluation server.

An archive holds the decision values of test images, whose labels only the server knows.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import EvaluationError
from fishing.evaluate import (
    all_ids,
    decision_function,
    required_labels,
    with_failed,
)
from fishing.files import read_at_most, write_whole
from fishing.kernels import Kernels, choose_features, main_feature
from fishing.store import FeaturesFile, Split, StackedRows

_MAX_BYTES = 2**28  # of an archive that may exist already


def write_submission(
    path: Path,
    archive: Path,
    *,
    feature: str | None = None,
    train: Sequence[str] = ("train", "val"),
    test: str = "test",
    C: float = 1.0,
) -> Path:
    """Train SVMs on some splits together, and archive the ranking of another split.

    The archive holds ``results/<devkit>/Main/comp2_cls_<test>_<class>.txt``, with one
    line ``id score`` for each image of the list; images that could not be read rank
    last. It holds no clock time, so equal features give equal bytes. VOC's competition
    2 is for systems that have seen other data than VOC's own, as nets trained on
    ImageNet have. A record of what the archive was made from is written beside it. If
    that record shows that the archive exists already, nothing is done.

    Parameters
    ----------
    path : Path
        A features file. Its test split needs no labels.
    archive : Path
        A file whose name ends in ``.tar.gz``.
    feature : str, optional
        The default is the file's deepest gradient but one, dW7 if the net has three
        inner products.
    train : sequence of str
        Labelled splits of the file.
    test : str
        A split of a devkit such as VOC2012.
    C : float
        Weight of the SVMs' hinge loss.

    Returns
    -------
    Path
        The archive.

    Raises
    ------
    StoreError
        If the file is missing or lacks a split.
    EvaluationError
        If the file lacks the feature, if a class cannot be learnt, or if the archive
        cannot be written.
    """
    with FeaturesFile(path) as file:
        splits = {name: file.split(name) for name in train}
        testing = file.split(test)
        asked_for = feature or main_feature(testing.blobs)
        (feature,) = choose_features([asked_for], testing.blobs)
        lists = {name: split.list_sha256 for name, split in splits.items()}
        record: dict[str, Any] = {
            **{"feature": feature, "train": list(train), "test": test, "C": C},
            "source": file.settings,
            "lists": {**lists, test: testing.list_sha256},
        }
        sidecar = archive.with_name(archive.name.removesuffix(".tar.gz") + ".json")
        if _is_there(archive, sidecar, record):
            return archive
        labels = [required_labels(split.labels, n) for n, split in splits.items()]
        training = _joined(list(splits.values()))
        values = decision_function(
            *Kernels(training, testing)(feature), np.concatenate(labels), C
        )
        scores = with_failed(values, testing, np.ones(len(training.classes), bool))
        folder = f"results/{testing.devkit or path.stem}/Main"
        texts = {
            f"{folder}/comp2_cls_{test}_{name}.txt": _lines(all_ids(testing), column)
            for name, column in zip(training.classes, scores.T, strict=True)
        }
    content = _tar_gz(texts)
    digest = hashlib.sha256(content).hexdigest()
    try:
        sidecar.unlink(missing_ok=True)
        write_whole(archive, content)
        write_whole(sidecar, json.dumps({**record, "sha256": digest}, indent=1))
    except OSError as error:
        raise EvaluationError(
            f"expected to write '{archive}', found: {error.strerror}; choose another "
            "--output"
        ) from None
    return archive


def _is_there(archive: Path, sidecar: Path, record: dict[str, Any]) -> bool:
    """Tell whether an archive with this record exists."""
    try:
        found = json.loads(read_at_most(sidecar, _MAX_BYTES))
        digest = hashlib.sha256(read_at_most(archive, _MAX_BYTES)).hexdigest()
    except (OSError, ValueError, RecursionError):
        return False
    return bool(found == {**record, "sha256": digest})


def _lines(ids: Sequence[str], scores: NDArray[np.float64]) -> str:
    """Write one line for each image, without infinities, which the server refuses."""
    last = scores[np.isfinite(scores)].min(initial=0.0) - 1
    finite = np.where(np.isfinite(scores), scores, last)
    return "".join(
        f"{name} {score:.9g}\n" for name, score in zip(ids, finite, strict=True)
    )


def _tar_gz(texts: dict[str, str]) -> bytes:
    """Pack files without times and users, so that equal texts give equal bytes."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as zipped,
        tarfile.open(mode="w", fileobj=zipped, format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, text in texts.items():
            data = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _joined(splits: Sequence[Split]) -> Split:
    """View splits as one unlabelled split, with their rows one below the other."""
    first = splits[0]
    for split in splits[1:]:
        if split.classes != first.classes:
            raise EvaluationError(
                f"expected the same classes in all splits, found "
                f"{' '.join(first.classes)} and {' '.join(split.classes)}; extract "
                "all of them from one data set"
            )
    return replace(
        first,
        image_id=tuple(name for split in splits for name in split.image_id),
        labels=None,
        blobs={
            name: StackedRows([split.blobs[name] for split in splits])
            for name in first.blobs
        },
    )
