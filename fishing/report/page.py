"""The report: one HTML page that needs no other file, and its plots as SVG files."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from fishing import __version__
from fishing.errors import DataError, EvaluationError
from fishing.evaluate import read_record, read_results
from fishing.files import write_whole
from fishing.progress import Progress, silent
from fishing.report.sections import Sections
from fishing.report.statistics import rank
from fishing.report.thumbnails import Thumbnails
from fishing.store import FeaturesFile

_log = logging.getLogger(__name__)

_SOURCE: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("net", "net_sha256", "weights_sha256", "backend"), str),
    **{"label": str, "temperature": (int, float), "preprocess": dict},
}


def write_report(
    results: Path,
    output: Path,
    *,
    features: Path | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> Path:
    """Write a page of tables and pictures of one evaluation.

    Parameters
    ----------
    results : Path
        A folder that `fishing.evaluate.write_results` made. If folders in it have
        results of the same images at other temperatures, the page shows them too.
    output : Path
        A folder for ``index.html``, and for the plots in ``plots/``.
    features : Path, optional
        The features file. By default, it is where the results say.
    data : Path, optional
        The data set, as for `fishing.images.read_splits`, for pictures of images. By
        default, it is where the results say. If it is not there any more, a warning
        says so, and the page names images instead.
    progress : Progress
        Counts classes.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    FishingError
        If results, features or images are missing, or do not belong together.
    """
    evaluation = read_results(results)
    record = evaluation.record
    _check_source(record["source"])
    with FeaturesFile(features or evaluation.path) as file:
        if file.settings != record["source"]:
            raise EvaluationError(
                f"expected the features file that was evaluated, found {file.path} "
                "with other settings; evaluate it anew, or name the right one with "
                "--features"
            )
        testing = file.split(record["test"])
        ranked = rank(evaluation, testing)
        thumbnails = _thumbnails(ranked.image_id, record["test"], data, evaluation.data)
        sections = Sections(record, ranked, testing, thumbnails)
        variables = sections.variables(_tempered(results, record), progress)
    versions = {
        **record["versions"],
        "matplotlib (this page)": version("matplotlib"),
        "fishing (this page)": __version__,
    }
    html = _template().render(variables, commands=_commands(record), versions=versions)
    try:
        for name, svg in sections.plots.items():
            write_whole(output / "plots" / f"{name}.svg", svg)
        path = output / "index.html"
        write_whole(path, html)
    except OSError as error:
        raise EvaluationError(
            f"expected to write into '{output}', found: {error.strerror}; choose "
            "another --output"
        ) from None
    return path


@cache
def _template() -> jinja2.Template:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("fishing.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("page.html.j2")


def _thumbnails(
    image_id: Sequence[str], split: str, data: Path | None, remembered: Path | None
) -> Thumbnails:
    """Open the data set that is named, or else the one that the results remember."""
    if data is None and remembered is not None:
        try:
            return Thumbnails(image_id, split, remembered)
        except DataError as error:
            _log.warning("the page has no pictures: %s", error)
    return Thumbnails(image_id, split, data)


def _check_source(source: dict[str, Any]) -> None:
    """Check that results say how their features were made, as the page does."""
    for key, kind in _SOURCE.items():
        if not isinstance(source.get(key), kind):
            raise EvaluationError(
                f"expected results that record the {key} of their features, found "
                f"{source.get(key)!a:.100}; evaluate anew"
            )


def _tempered(
    results: Path, record: dict[str, Any]
) -> list[tuple[float, dict[str, Any]]]:
    """Find results of the same images and the same net at other temperatures."""
    found = {}
    for path in sorted(results.glob("*/results.json")):
        other = read_record(path.parent)
        tau = other["source"].get("temperature")
        same = {**other["source"], "temperature": record["source"]["temperature"]}
        keys = ("protocol", "train", "test", "C", "lists", "folds", "landmarks")
        if same == record["source"] and all(
            other.get(key) == record.get(key) for key in keys
        ):
            found[tau] = other
    found.pop(record["source"]["temperature"], None)
    return sorted(found.items())


def _commands(record: dict[str, Any]) -> list[str]:
    """Write the commands that make these results, quoted for a shell."""
    source, train, test = (record[key] for key in ("source", "train", "test"))
    file = Path(record["features_file"]).name
    projection = source.get("projection")
    extracted = "extracted.h5" if projection else file
    extract = ["fishing", "extract", "--net", source["net"]]
    for split in dict.fromkeys((train, test)):
        extract += ["--split", split]
    extract += ["--backend", source["backend"]]
    extract += ["--temperature", f"{source['temperature']:g}"]
    for key in ("dtype", "compression"):
        if key in source and not projection:
            extract += [f"--{key}", str(source[key])]
    if source.get("gpu_math") == "tf32":
        extract += ["--device", "gpu:0", "--tf32"]
    extract += ["--output", extracted]
    commands = [extract]
    if projection:
        compress = ["fishing", "compress", extracted, "--output", file]
        compress += ["--dimensions", str(projection["dimensions"])]
        compress += ["--dtype", str(source.get("dtype", "float32"))]
        for split in projection["splits"]:
            compress += ["--split", split]
        commands.append(compress)
    evaluate = ["fishing", "evaluate", file]
    if "folds" in record:
        evaluate += ["--split", test, "--folds", str(record["folds"])]
    else:
        evaluate += ["--train", train, "--test", test]
    evaluate += ["--protocol", record["protocol"], "-C", f"{record['C']:g}"]
    if "bootstrap" in record:
        how = record["bootstrap"]
        evaluate += ["--bootstrap", f"{how['resamples']:g}"]
        evaluate += ["--reference", how["reference"]]
    if "landmarks" in record:
        evaluate += ["--landmarks", str(record["landmarks"])]
    return [shlex.join(command) for command in (*commands, evaluate)]
