"""New photographs, classified by SVMs that learn from a split of a features file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fishing.errors import DataError, EvaluationError, printable
from fishing.evaluate import (
    cross_validated_sigmoids,
    required_labels,
    train_svms,
)
from fishing.extract import compute_batches, project, recorded_settings
from fishing.images import find_photos
from fishing.kernels import Kernels, choose_features, feature_blobs, main_feature
from fishing.nets import NetSpec
from fishing.progress import Progress, silent
from fishing.store import ExtractionSettings, FeaturesFile, Rows, Split
from fishing.uses.kernel_to import KernelTo

_log = logging.getLogger(__name__)

Blobs = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Classified:
    """What photographs show.

    Attributes
    ----------
    path : tuple of Path, length n
        The photographs that could be read.
    classes : tuple of str, length n_classes
    scores : ndarray of float64, shape (n, n_classes)
        Decision values: the larger, the surer; positive where the SVM says yes.
    probabilities : ndarray of float64, shape (n, n_classes), or None
        By Platt's method; one class by itself, so they do not add up to 1.
    failed : dict of Path to str
        The other photographs, and why they could not be read.
    feature : str
    """

    path: tuple[Path, ...]
    classes: tuple[str, ...]
    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None
    failed: dict[Path, str]
    feature: str

    def best(self, i: int, k: int) -> list[int]:
        """Return the columns of the k largest values of photograph i, the best first.

        They are those of the probabilities if there are any.
        """
        values = self.scores if self.probabilities is None else self.probabilities
        return [int(j) for j in np.argsort(-values[i], kind="stable")[:k]]


def classify(
    path: Path,
    photos: Sequence[Path],
    *,
    train: str = "trainval",
    feature: str | None = None,
    C: float = 1.0,
    probabilities: bool = False,
    spec: NetSpec | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    progress: Progress = silent,
) -> Classified:
    r"""Say which classes photographs show, by SVMs that are trained on a split.

    Each class has an SVM, which is trained against the rest as `fishing.evaluate` does:
    its decision value is :math:`f(A) = \sum_i \alpha_i y_i k(A_i, A) + b`, with the
    kernel k of the feature. The photographs go through the net with the preprocessing,
    backend and temperature that the file was made with, a batch at a time. What cannot
    be read is reported and left out.

    Parameters
    ----------
    path : Path
        A features file.
    photos : sequence of Path
        Image files, and folders, which stand for all images in them.
    train : str
        The labelled split to train on.
    feature : str, optional
        Such as ``x7``, ``x6*x7`` or ``dW7``. The default is the file's deepest gradient
        but one, dW7 if the net has three inner products.
    C : float
        Weight of the SVMs' hinge loss.
    probabilities : bool
        Whether to turn decision values into probabilities by Platt's method, fitted in
        a cross-validation of the training split with 5 folds.
    spec : NetSpec, optional
        The net of the file. By default, the one under models/ that the file names.
    device : str
        The device that runs the net: ``cpu`` or ``gpu:N``.
    batch_size : int
        Images that go through the net at once.
    progress : Progress
        Counts photographs.

    Returns
    -------
    Classified

    Raises
    ------
    StoreError
        If the file is missing, lacks the split, or was made with another net.
    DataError
        If no photograph can be read.
    EvaluationError
        If the split has no labels, or no class with positives and negatives, if the
        file or the net lacks the feature, or if C is not allowed.

    Examples
    --------
    >>> classified = classify(Path("features.h5"), [Path("holiday")])  # doctest: +SKIP
    >>> classified.classes[classified.best(0, 1)[0]]  # doctest: +SKIP
    'horse'
    """
    with FeaturesFile(path) as file:
        images = file.split(train)
        chosen = feature or main_feature(images.blobs)
        (chosen,) = choose_features([chosen], images.blobs)
        labels, classes = _usable(images, train)
        settings = recorded_settings(file, spec, device)
        found, failed = find_photos(photos)
        K, _ = Kernels(images, images)(chosen)
        machines = train_svms(K, labels, C)
        sigmoids = None
        if probabilities:
            sigmoids = cross_validated_sigmoids(K, labels, classes, C)
        del K
        kernel = KernelTo(chosen, images)
        for photo, reason in failed.items():
            _log.warning("%s: %s; left out", printable(str(photo)), reason)
        read, scores = [], []
        batches = _batches(
            settings,
            found,
            chosen,
            failed,
            device,
            batch_size,
            kernel.n_at_once,
            file.projection,
        )
        for places, blobs in batches:
            read += places
            scores.append(machines(kernel(blobs)))
            progress("photographs", len(read) + len(failed), len(found), "images")
    if not read:
        first = f", such as '{next(iter(failed))}'" if failed else ""
        raise DataError(
            f"expected photographs, found none that can be read{first}; name image "
            "files, or folders of images"
        )
    values = np.concatenate(scores)
    return Classified(
        path=tuple(found[place] for place in read),
        classes=classes,
        scores=values,
        probabilities=sigmoids(values) if sigmoids else None,
        failed=failed,
        feature=chosen,
    )


def _usable(images: Split, name: str) -> tuple[NDArray[np.int8], tuple[str, ...]]:
    """Return the labels and names of the classes that can be learnt."""
    labels = required_labels(images.labels, name)
    n_positive, n_negative = (labels > 0).sum(axis=0), (labels < 0).sum(axis=0)
    usable = (n_positive > 0) & (n_negative > 0)
    for j in np.flatnonzero(~usable):
        _log.warning(
            "class '%s' has %d positives and %d negatives to learn from; left out",
            *(images.classes[j], n_positive[j], n_negative[j]),
        )
    if not usable.any():
        raise EvaluationError(
            f"expected a class with positives and negatives to learn from in '{name}', "
            "found none; choose another --train"
        )
    return labels[:, usable], tuple(np.array(images.classes, object)[usable])


def _batches(
    settings: ExtractionSettings,
    photos: Sequence[Path],
    feature: str,
    failed: dict[Path, str],
    device: str,
    batch_size: int,
    n_at_once: int,
    bases: Mapping[str, Rows],
) -> Iterator[tuple[list[int], Blobs]]:
    """Compute the blobs of a feature, of many photographs at a time.

    They are projected on the bases of a compressed file, if there are some. What cannot
    be read is reported, and added to `failed`.
    """
    if not photos:
        return
    places: list[int] = []
    parts: list[Blobs] = []
    for batch in compute_batches(settings, photos, device, batch_size):
        for place, reason in batch.failed.items():
            _log.warning("%s: %s; left out", printable(str(photos[place])), reason)
            failed[photos[place]] = reason
        if batch.places:
            choose_features([feature], batch.blobs)  # net.toml may name fewer blobs
            blobs = {k: batch.blobs[k] for k in feature_blobs(feature)}
            parts.append(project(blobs, bases))
            places += batch.places
        if len(places) >= n_at_once:
            yield places, _joined(parts)
            places, parts = [], []
    if places:
        yield places, _joined(parts)


def _joined(parts: Sequence[Blobs]) -> Blobs:
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
