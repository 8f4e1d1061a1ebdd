"""The paper's experiments in one go: weights, features, evaluations and tables.

Each step keeps what it makes in one folder, and a step that is done is not repeated, so
the work can be interrupted at any time.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fishing.errors import DataError, EvaluationError
from fishing.evaluate import check_resampling, evaluate, read_record, write_results
from fishing.extract import extract
from fishing.files import write_whole
from fishing.images import ImageList, read_splits
from fishing.kernels import available_features, choose_features, parse_feature
from fishing.nets import fetch_weights
from fishing.paper.layouts import FORMATS
from fishing.paper.submission import write_submission
from fishing.paper.tables import Result, by_class_features, compare, format_tables
from fishing.progress import Progress, silent
from fishing.store import ExtractionSettings, FeaturesFile

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _DataSet:
    """A data set and its splits; `server` is ranked for the server, if it is there."""

    name: str
    folder: Path
    train: ImageList
    test: ImageList
    server: ImageList | None = None


def reproduce(
    data: Path,
    settings: Sequence[ExtractionSettings],
    output: Path,
    *,
    years: Sequence[int] = (),
    features: Sequence[str] = (),
    device: str = "cpu",
    batch_size: int | None = None,
    n_resamples: int = 1000,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run the paper's protocol, and compare the results with the paper's.

    On VOC 2007 to 2009, SVMs are trained on trainval and tested on test. The test
    labels of VOC 2010 and later are secret, so SVMs are trained on train and tested on
    val. If the images of test are there, SVMs trained on train and val together rank
    them, and the ranking is archived for the server. Any other data set in one of the
    layouts of `read_splits` is treated like VOC 2007.

    Parameters
    ----------
    data : Path
        The folder VOCdevkit, or one data set.
    settings : sequence of ExtractionSettings
        One for each net.
    output : Path
        A folder for features (``<data set>-<net>.h5``), results
        (``<data set>-<net>/``), archives (``<data set>-<net>-<feature>.tar.gz``) and
        the tables (``tables.txt``, ``.md``, ``.tex`` and ``.json``).
    years : sequence of int
        Years of VOC. By default, those that are there.
    features : sequence of str
        Features beside those of table 1, such as ``x6*x7``, to have rows of their own.
    device, batch_size
        As for `fishing.extract.extract`.
    n_resamples
        As for `fishing.evaluate.evaluate`.
    progress : Progress
        Counts the units of each stage.

    Returns
    -------
    dict
        As `fishing.paper.compare` returns it.

    Raises
    ------
    FishingError
        If a stage fails.
    """
    for feature in features:
        parse_feature(feature)  # a misspelt name must not cost hours
    data_sets = _find_data_sets(data, years)
    for one in settings:
        fetch_weights(one.net, progress=progress)
    results = []
    for data_set in data_sets:
        for one in settings:
            stem = f"{data_set.name}-{one.net.name}"
            file = output / f"{stem}.h5"
            lists = [data_set.train, data_set.test]
            if data_set.server:
                lists.append(data_set.server)
            extract(
                one,
                lists,
                file,
                data=data_set.folder,
                device=device,
                batch_size=batch_size,
                progress=partial(_labelled, progress, stem),
            )
            record = _evaluated(
                data_set, file, features, output / stem, n_resamples, progress
            )
            results.append(Result(data_set.name, one.net.name, record))
            if data_set.server:
                for feature in by_class_features(record["features"]):
                    progress(f"{stem} submission {feature}", 0, 1, "files")
                    write_submission(
                        file,
                        output / f"{stem}-{feature}.tar.gz",
                        feature=feature,
                        train=(data_set.train.split, data_set.test.split),
                        test=data_set.server.split,
                    )
                    progress(f"{stem} submission {feature}", 1, 1, "files")
    comparison = compare(results)
    _write_tables(comparison, output)
    return comparison


def _find_data_sets(data: Path, years: Sequence[int]) -> list[_DataSet]:
    """Find the data sets and read their lists."""
    wanted = [f"VOC{year}" for year in dict.fromkeys(years)]
    if not data.is_dir():
        raise DataError(
            f"expected the folder VOCdevkit or a data set at '{data}', found no "
            "folder; name one with --data"
        )
    found = sorted(p.name for p in data.iterdir() if re.fullmatch(r"VOC\d{4}", p.name))
    if not found:
        if wanted:
            raise DataError(
                f"expected {' '.join(wanted)} in '{data}', found no folder of that "
                "kind; name the devkit's folder, or leave --year out"
            )
        return [_read_data_set(data)]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(
            f"expected {' '.join(wanted)} in '{data}', found {' '.join(found)}; leave "
            f"--year {missing[0][3:]} out, or put {missing[0]} there"
        )
    return [_read_data_set(data / name) for name in wanted or found]


def _read_data_set(folder: Path) -> _DataSet:
    """Read the splits that the protocol uses."""
    name = folder.resolve().name
    year = re.fullmatch(r"VOC(\d{4})", name)
    if year is None or int(year[1]) < 2010:
        train, test = read_splits(folder, ["trainval", "test"])
        return _DataSet(name, folder, train, test)
    train, test = read_splits(folder, ["train", "val"])
    if not (folder / "ImageSets" / "Main" / "test.txt").is_file():
        _log.info("%s has no test.txt: no archive for the server", folder)
        return _DataSet(name, folder, train, test)
    return _DataSet(name, folder, train, test, *read_splits(folder, ["test"]))


def _table_features(blobs: Collection[str], others: Sequence[str]) -> list[str]:
    """List the features that the tables have rows of: table 1's, and others."""
    return choose_features([*available_features(blobs), *others], blobs)


def _evaluated(
    data_set: _DataSet,
    path: Path,
    features: Sequence[str],
    folder: Path,
    n_resamples: int,
    progress: Progress,
) -> dict[str, Any]:
    """Evaluate table 1's features of a file and others, unless its results are there.

    Results that are there may have more features, which are left out.
    """
    train, test = data_set.train, data_set.test
    with FeaturesFile(path) as file:
        blobs = file.split(train.split).blobs
        names = _table_features(blobs, features)
        expected = {
            **{"train": train.split, "test": test.split, "C": 1.0},
            "source": file.settings,
            "lists": {images.split: images.sha256 for images in (train, test)},
            "bootstrap": check_resampling(n_resamples, None, names),
        }
    try:
        record = read_record(folder)
    except EvaluationError:
        record = {"features": {}}
    is_same = all(record.get(key) == value for key, value in expected.items())
    if not (is_same and set(names) <= set(record["features"])):
        evaluation = evaluate(
            path,
            train=train.split,
            test=test.split,
            features=names,
            n_resamples=n_resamples,
            progress=partial(_labelled, progress, folder.name),
        )
        write_results(evaluation, folder)
        record = evaluation.record
    return {**record, "features": {name: record["features"][name] for name in names}}


def _write_tables(comparison: dict[str, Any], output: Path) -> None:
    texts = {suffix: format_tables(comparison, suffix) for suffix in FORMATS}
    texts["json"] = json.dumps(comparison, indent=1, allow_nan=False) + "\n"
    for suffix, text in texts.items():
        path = output / f"tables.{suffix}"
        try:
            write_whole(path, text)
        except OSError as error:
            raise EvaluationError(
                f"expected to write '{path}', found: {error.strerror}; choose another "
                "--output"
            ) from None


def _labelled(
    progress: Progress, stem: str, label: str, done: int, total: int | None, unit: str
) -> None:
    """Report progress with the data set and the net before the label."""
    progress(f"{stem} {label}", done, total, unit)
