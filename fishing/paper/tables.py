"""The paper's tables with our figures, the paper's, and the difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fishing.kernels import available_features, feature_blobs, main_feature
from fishing.paper.figures import (
    Figures,
    paper_figures,
    paper_source,
    paper_splits,
    published_figures,
)
from fishing.paper.layouts import Column, Table, lay_out

_TITLES = {"VOC2007": "Table 2", "VOC2012": "Table 3"}

# What a column shows; see `Column.keys`.
_OURS = {"ours": ""}
_BESIDE = {"ours": "ours", "paper": "paper", "difference": "+/-"}
_PAPER = {"paper": "paper"}


@dataclass(frozen=True)
class Result:
    """One evaluation of a net on a data set.

    Attributes
    ----------
    data_set : str
        Such as ``VOC2007``.
    net : str
    record : dict
        The record of `fishing.evaluate.Evaluation`.
    """

    data_set: str
    net: str
    record: dict[str, Any]


def compare(results: Sequence[Result]) -> dict[str, Any]:
    """Put the paper's figures beside ours.

    Parameters
    ----------
    results : sequence of Result

    Returns
    -------
    dict
        ``paper``, its citation, and ``results``: by data set and net, a dict with
        ``protocol``, ``train``, ``test``, ``C`` and ``features``. Each feature has
        ``mAP`` (table 1), ``mean`` (that of tables 2 and 3) and, by class, ``AP``:
        dicts with ``ours``, ``paper`` and ``difference``, in [0, 1] or None, and with
        the ``interval`` of a bootstrap. With one, there is also ``over``: the
        difference of the mAP to that of the ``reference``, and its interval.
        ``other_splits`` has the paper's figures of splits that were not evaluated.
        ``published`` has the lines of table 1 (right), if the paper has these nets.
    """
    found: dict[str, Any] = {}
    for result in results:
        record = result.record
        paper = paper_figures(result.data_set, record["test"], result.net)
        one = {key: record[key] for key in ("protocol", "train", "test", "C")}
        if "bootstrap" in record:
            one["reference"] = record["bootstrap"]["reference"]
        one["features"] = {
            feature: _compare_feature(feature, record, paper)
            for feature in record["features"]
        }
        one["other_splits"] = {
            split: {
                feature: {"mean": figures.class_mean[feature], "AP": AP}
                for feature, AP in figures.by_class.items()
            }
            for split in paper_splits(result.data_set)
            if split != record["test"]
            and (figures := paper_figures(result.data_set, split, result.net))
        }
        found.setdefault(result.data_set, {})[result.net] = one
    is_in_paper = any(
        _figures(data_set, net, one) for data_set, net, one in _each(found)
    )
    return {
        "paper": paper_source(),
        "results": found,
        "published": _compare_published(found) if is_in_paper else [],
    }


def format_tables(comparison: dict[str, Any], suffix: str) -> str:
    """Lay out table 1, a table by class for each data set, and intervals, in per cent.

    Parameters
    ----------
    comparison : dict
        As `compare` returns it.
    suffix : str
        ``txt``, ``md`` or ``tex``.

    Returns
    -------
    str
        The tables, with a newline at their end.
    """
    results = comparison["results"]
    tables = [_means(results)]
    if comparison["published"]:
        tables.append(_published(comparison["published"]))
    tables += [_by_class(data_set, nets) for data_set, nets in results.items()]
    if any("reference" in one for *_, one in _each(results)):
        tables.append(_intervals(results))
    parts = [lay_out(table, suffix) for table in tables]
    notes = " ".join(_notes(comparison))
    if suffix == "tex":
        parts.insert(0, r"% \usepackage{booktabs,graphicx}")
        notes = f"% {notes}"
    return "\n\n".join([*parts, notes]) + "\n"


def by_class_features(features: Iterable[str]) -> tuple[str, ...]:
    """Choose the features of the tables by class: x7 and, as in the paper, dW7.

    The latter stands for the deepest gradient but one that the features have.
    """
    return "x7", main_feature(set().union(*map(feature_blobs, features)))


def _each(results: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Go through all data sets and nets."""
    for data_set, nets in results.items():
        for net, one in nets.items():
            yield data_set, net, one


def _figures(data_set: str, net: str, one: dict[str, Any]) -> Figures:
    return paper_figures(data_set, one["test"], net)


def _compare_feature(
    feature: str, record: dict[str, Any], paper: Figures
) -> dict[str, Any]:
    measured, by_class = record["features"][feature], paper.by_class.get(feature, {})
    interval = measured.get("interval", {"mAP": None, "AP": {}})
    mean = measured["mAP"]
    found: dict[str, Any] = {
        "mAP": _beside(mean, paper.mean.get(feature), interval["mAP"]),
        "mean": _beside(mean, paper.class_mean.get(feature), interval["mAP"]),
        "AP": {
            name: _beside(value, by_class.get(name), interval["AP"].get(name))
            for name, value in measured["AP"].items()
        },
    }
    if "difference" in measured:
        base = record["features"][record["bootstrap"]["reference"]]["mAP"]
        over = measured["difference"]["mAP"]
        found["over"] = {"difference": mean - base, "interval": over}
    return found


def _beside(
    ours: float | None, paper: float | None, interval: list[float] | None = None
) -> dict[str, Any]:
    difference = None if ours is None or paper is None else ours - paper
    found = {"ours": ours, "paper": paper, "difference": difference}
    return {**found, "interval": interval} if interval else found


def _compare_published(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Put our figures beside those lines of table 1 (right) that are the paper's."""
    lines = []
    for line in published_figures():
        means = {}
        for data_set, paper in line.mean.items():
            one = results.get(data_set, {}).get(line.net, {"test": "", "features": {}})
            feature = one["features"].get(line.feature)
            is_same = feature is not None and one["test"] == "test"
            means[data_set] = _beside(
                feature["mAP"]["ours"] if is_same else None, paper
            )
        lines.append({"method": line.method, "mAP": means})
    return lines


def _means(results: dict[str, Any]) -> Table:
    columns = [
        Column(
            f"{data_set} {net}",
            {f: measured["mAP"] for f, measured in one["features"].items()},
            _BESIDE if _figures(data_set, net, one) else _OURS,
        )
        for data_set, net, one in _each(results)
    ]
    rows = _in_order(dict.fromkeys(f for column in columns for f in column.values))
    return Table("Table 1 (left)", "mean average precision", "feature", rows, columns)


def _published(lines: Sequence[dict[str, Any]]) -> Table:
    columns = []
    for data_set in dict.fromkeys(name for line in lines for name in line["mAP"]):
        # Most lines have no value of ours, which is no dash here.
        values = {
            line["method"]: {k: "" if v is None else v for k, v in means.items()}
            for line in lines
            if (means := line["mAP"].get(data_set))
        }
        if any(value["ours"] for value in values.values()):
            columns.append(Column(data_set, values, _BESIDE))
        else:
            columns.append(Column(f"{data_set} paper", values, _PAPER))
    title = "published results on test, mean average precision"
    rows = [line["method"] for line in lines]
    return Table("Table 1 (right)", title, "method", rows, columns)


def _by_class(data_set: str, nets: dict[str, Any]) -> Table:
    """Make table 2, table 3 or one like them."""
    columns = []
    for net, one in nets.items():
        shown = by_class_features(one["features"])
        for feature, measured in one["features"].items():
            if feature in shown:
                has_paper = feature in _figures(data_set, net, one).by_class
                columns.append(
                    Column(
                        f"{net} {feature} {one['test']}",
                        {"mean": measured["mean"], **measured["AP"]},
                        _BESIDE if has_paper else _OURS,
                    )
                )
        for split, features in one["other_splits"].items():
            for feature, paper in features.items():
                values = {"mean": paper["mean"], **paper["AP"]}
                columns.append(
                    Column(
                        f"{net} {feature} {split} paper",
                        {name: {"paper": value} for name, value in values.items()},
                        _PAPER,
                    )
                )
    how = next(iter(nets.values()))
    title = f"average precision on {data_set}, {how['train']} to {how['test']}"
    reference = _TITLES.get(data_set, "By class")
    return Table(reference, title, "class", list(columns[0].values), columns)


def _intervals(results: dict[str, Any]) -> Table:
    """Make the table of means with the intervals of a bootstrap."""
    columns = []
    for data_set, net, one in _each(results):
        if "reference" not in one:
            continue
        values = {}
        for feature, measured in one["features"].items():
            over = measured.get("over", {"difference": "", "interval": ""})
            values[feature] = {
                **{key: measured["mAP"][key] for key in ("ours", "interval")},
                "difference": over["difference"],
                "difference_interval": over["interval"],
            }
        keys = {"ours": "mAP", "interval": "95 %"}
        keys |= {"difference": f"- {one['reference']}", "difference_interval": "95 %"}
        columns.append(Column(f"{data_set} {net}", values, keys))
    rows = _in_order(dict.fromkeys(f for column in columns for f in column.values))
    title = "mean average precision with 95 % intervals"
    return Table("Bootstrap", title, "feature", rows, columns)


def _in_order(features: Iterable[str]) -> list[str]:
    """Sort features as table 1 does; those that it lacks come last, in their order."""
    everything = available_features(set().union(*map(feature_blobs, features)))
    return sorted(
        features,
        key=lambda f: everything.index(f) if f in everything else len(everything),
    )


def _notes(comparison: dict[str, Any]) -> Iterator[str]:
    """Say what the tables do not say themselves."""
    yield "Average precision in per cent."
    results = comparison["results"]
    if any("reference" in one for *_, one in _each(results)):
        yield "Intervals are those of a paired bootstrap over the test images."
    if not comparison["published"]:
        return
    yield "The paper's figure and the difference stand beside ours."
    if any(one["other_splits"] for *_, one in _each(results)):
        yield "The paper's figures on a split that is not evaluated here stand alone."
    for data_set, net, one in _each(results):
        paper = _figures(data_set, net, one)
        for feature, mean in paper.class_mean.items():
            if abs(mean - paper.mean.get(feature, mean)) > 1e-9:
                yield (
                    f"Of {feature} of {net} the paper prints two means, "
                    f"{100 * paper.mean[feature]:.1f} in table 1 and {100 * mean:.1f} "
                    f"in {_TITLES[data_set].lower()}."
                )
    yield f"Paper: {comparison['paper']}."
