"""The report: one HTML page that needs nothing beside it, and its plots as SVG files.

In goes a folder of results, out comes a page of tables, plots and rankings of images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl

from fishing import __version__
from fishing.errors import EvaluationError
from fishing.evaluate import read_record, read_results
from fishing.files import write_whole
from fishing.progress import Progress, silent
from fishing.report.sections import Contents
from fishing.report.statistics import rank
from fishing.report.thumbnails import Thumbnails
from fishing.store import FeaturesFile

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
    """Write the page of one evaluation.

    Parameters
    ----------
    results : Path
        A folder that `fishing.evaluate.write_results` made. Folders in it that hold
        results of the same images at other temperatures are taken into the page.
    output : Path
        A folder: ``index.html``, and the plots in ``plots/``.
    features : Path, optional
        The features file; by default where the results say that it is.
    data : Path, optional
        The data set as `fishing.images.read_splits` takes it, for pictures of images.
        Without it the page names them instead.
    progress : Progress
        Counts classes.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    FishingError
        If results, features or images are missing, or are not of the same list.
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
        thumbnails = Thumbnails(ranked.image_id, record["test"], data)
        contents = Contents(record, ranked, testing, thumbnails)
        variables = contents.variables(_tempered(results, record), progress)
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("fishing.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("page.html.j2")
    versions = {
        **record["versions"],
        "matplotlib (this page)": mpl.__version__,
        "fishing (this page)": __version__,
    }
    html = template.render(variables, commands=_commands(record), versions=versions)
    try:
        for name, svg in contents.plots.items():
            write_whole(output / "plots" / f"{name}.svg", svg)
        path = output / "index.html"
        write_whole(path, html)
    except OSError as error:
        raise EvaluationError(
            f"expected to write into '{output}', found: {error.strerror}; choose "
            "another --output"
        ) from None
    return path


def _check_source(source: dict[str, Any]) -> None:
    """Hold what results say of their features to have what the page tells of it."""
    for key, kind in _SOURCE.items():
        if not isinstance(source.get(key), kind):
            raise EvaluationError(
                f"expected results that say of what {key} their features are, found "
                "none of them; evaluate anew"
            )


def _tempered(
    results: Path, record: dict[str, Any]
) -> list[tuple[float, dict[str, Any]]]:
    """Find results of the same images and net at other temperatures."""
    found = {}
    for path in sorted(results.glob("*/results.json")):
        other = read_record(path.parent)
        tau = other["source"].get("temperature")
        same = {**other["source"], "temperature": record["source"]["temperature"]}
        keys = ("protocol", "train", "test", "C", "lists")
        if same == record["source"] and all(other[k] == record[k] for k in keys):
            found[tau] = other
    found.pop(record["source"]["temperature"], None)
    return sorted(found.items())


def _commands(record: dict[str, Any]) -> list[str]:
    """Write the commands that make such results."""
    source = record["source"]
    file = Path(record["features_file"]).name
    storage = [
        f"--{key} {source[key]}" for key in ("dtype", "compression") if key in source
    ]
    if source.get("gpu_math") == "tf32":
        storage += ["--device gpu:0", "--tf32"]
    extract = [
        f"fishing extract --net {source['net']}",
        f"--split {record['train']} --split {record['test']}",
        f"--backend {source['backend']} --temperature {source['temperature']:g}",
        *storage,
        f"--output {file}",
    ]
    evaluate = [
        f"fishing evaluate {file} --train {record['train']} --test {record['test']}",
        f"--protocol {record['protocol']} -C {record['C']:g}",
    ]
    return [" ".join(extract), " ".join(evaluate)]
