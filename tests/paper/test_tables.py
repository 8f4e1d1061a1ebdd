from __future__ import annotations

import itertools
import json
import re

import pytest

from fishing.kernels import FEATURES
from fishing.paper import Result, compare, format_tables, paper_figures
from fishing.paper.layouts import FORMATS


def _record(
    x7: float, boat: float | None = 0.25, test: str = "test", **changes: object
) -> dict[str, object]:
    ap = {"boat": boat, "car": 0.75}
    features = {"x7": {"mAP": x7, "AP": ap}, "dW7": {"mAP": 0.5, "AP": ap}}
    return {
        **{"protocol": "voc2007", "train": "trainval", "test": test, "C": 1.0},
        "features": features,
        **changes,
    }


@pytest.fixture
def comparison() -> dict[str, object]:
    return compare(
        [
            Result("VOC2007", "alexnet", _record(0.784)),
            Result("VOC2007", "tinyalexnet", _record(0.5)),
            Result("my_set", "vgg16", _record(0.5, None)),
        ]
    )


def _tables(text: str) -> dict[str, dict[str, list[str]]]:
    """Read tables of text: by title and row, its cells, of which some are empty."""
    found = {}
    parts = text.split("\n\n")
    for title, table in itertools.pairwise(parts):
        lines = table.splitlines()
        rule = next((i for i, line in enumerate(lines) if line.startswith("---")), None)
        if rule is None:
            continue
        spans = [match.span() for match in re.finditer("-+", lines[rule])]
        found[title] = {
            line[: spans[0][1]].strip(): [line[a:b].strip() for a, b in spans[1:]]
            for line in lines[rule + 1 :]
        }
    return found


def test_comparison(comparison: dict[str, object]) -> None:
    assert json.loads(json.dumps(comparison)) == comparison
    alexnet = comparison["results"]["VOC2007"]["alexnet"]
    assert (alexnet["train"], alexnet["C"]) == ("trainval", 1.0)
    mean = alexnet["features"]["x7"]["mAP"]
    assert (mean["ours"], mean["paper"]) == (0.784, 0.794)
    assert mean["difference"] == pytest.approx(-0.01)
    boat = alexnet["features"]["x7"]["AP"]["boat"]
    assert (boat["ours"], boat["paper"]) == (0.25, 0.873)
    assert boat["difference"] == pytest.approx(-0.623)
    mine = comparison["results"]["my_set"]["vgg16"]["features"]["x7"]["AP"]["boat"]
    assert mine == {"ours": None, "paper": None, "difference": None}


def test_text(comparison: dict[str, object]) -> None:
    text = format_tables(comparison, "txt")
    table1, published, table2, by_class = _tables(text).values()
    #      alexnet, paper, difference; tinyalexnet; vgg16 on my_set
    assert table1["x7"] == ["78.4", "79.4", "-1.0", "50.0", "50.0"]
    assert table1["dW7"] == ["50.0", "80.9", "-30.9", "50.0", "50.0"]
    assert published["Proposed, AlexNet"] == ["50.0", "80.9", "-30.9", "76.5"]
    assert published["DeCAF"] == ["", "73.4", "", ""]
    assert published["Zeiler et al."] == ["", "", "", "79.0"]
    boat = ["25.0", "87.3", "-62.3", "25.0", "89.5", "-64.5", "25.0", "25.0"]
    assert table2["boat"] == boat
    assert table2["mean"][:3] == ["78.4", "79.4", "-1.0"]
    assert by_class["boat"] == ["-", "-"]
    assert "arXiv:1507.06429" in text


def _whole(data_set: str, net: str, test: str, shift: float) -> Result:
    """Make results of all eleven features, off the paper's by a constant."""
    paper = paper_figures(data_set, test, net)
    features = {
        feature: {
            "mAP": mean + shift,
            "AP": {
                name: value + shift
                for name, value in paper.by_class.get(
                    feature, paper.by_class["x7"]
                ).items()
            },
        }
        for feature, mean in paper.mean.items()
    }
    record = _record(0, None, test, features=features)
    return Result(data_set, net, record)


def test_the_papers_tables_are_whole() -> None:
    """All of tables 1 to 3 stand beside ours, and nothing is missing."""
    results = [
        _whole(*where, 0.01)
        for where in (
            ("VOC2007", "alexnet", "test"),
            ("VOC2007", "vgg16", "test"),
            ("VOC2012", "alexnet", "val"),
            ("VOC2012", "vgg16", "val"),
        )
    ]
    text = format_tables(compare(results), "txt")
    tables = _tables(text)
    assert [title.partition(":")[0] for title in tables] == [
        *("Table 1 (left)", "Table 1 (right)", "Table 2", "Table 3"),
    ]
    left, right, table2, table3 = tables.values()
    assert list(left) == list(FEATURES)
    assert left["dW7"][0::3] == ["81.9", "91.0", "77.3", "86.2"]
    assert left["dW7"][1::3] == ["80.9", "90.0", "76.3", "85.2"]
    cells = [cell for row in left.values() for cell in row]
    assert len(cells) == 11 * 4 * 3
    assert {cell for row in left.values() for cell in row[2::3]} == {"+1.0"}
    assert right["Proposed, VGG16"] == ["91.0", "90.0", "+1.0", "85.3"]
    # On VOC 2012, ours is on val; the paper's figures on test stand alone.
    assert len(table2) == len(table3) == 21
    assert len(table2["mean"]) == 4 * 3
    assert len(table3["mean"]) == 2 * (2 * 3 + 2)
    assert table2["mean"][6:9] == ["90.4", "89.3", "+1.1"]
    assert left["x7"][3:6] == ["90.4", "89.4", "+1.0"]
    assert table3["mean"][6:8] == ["75.0", "76.5"]
    assert table3["tvmonitor"][-2:] == ["81.5", "81.4"]
    everything = [
        cell for rows in (left, table2, table3) for row in rows.values() for cell in row
    ]
    assert "" not in everything
    assert "-" not in [*everything, *(cell for row in right.values() for cell in row)]
    assert "Of x7 of vgg16 the paper prints two means, 89.4 in table 1 and 89.3" in text
    assert "alexnet the paper prints two" not in text


def test_a_split_that_the_paper_does_not_have_stands_alone() -> None:
    comparison = compare([Result("VOC2007", "alexnet", _record(0.5, test="val"))])
    text = format_tables(comparison, "txt")
    assert _tables(text)["Table 1 (left): mean average precision"]["x7"] == ["50.0"]


def test_features_that_the_paper_does_not_have_leave_its_cells_empty() -> None:
    record = _record(0.5)
    record["features"]["x6+dW7"] = record["features"]["x7"]
    comparison = compare([Result("VOC2007", "alexnet", record)])
    table1, *_ = _tables(format_tables(comparison, "txt")).values()
    assert table1["x6+dW7"] == ["50.0", "", ""]


def test_intervals() -> None:
    record = _record(0.784, bootstrap={"reference": "x7"})
    for feature, measured in record["features"].items():
        measured["interval"] = {"mAP": [0.3, 0.9], "AP": {"boat": [0.1, 0.2]}}
        if feature != "x7":
            measured["difference"] = {"mAP": [-0.31, -0.2], "AP": {}}
    comparison = compare([Result("VOC2007", "alexnet", record)])
    assert json.loads(json.dumps(comparison)) == comparison
    features = comparison["results"]["VOC2007"]["alexnet"]["features"]
    assert features["x7"]["mAP"]["interval"] == [0.3, 0.9]
    assert features["x7"]["AP"]["boat"]["interval"] == [0.1, 0.2]
    assert features["dW7"]["over"]["difference"] == pytest.approx(-0.284)
    table = _tables(format_tables(comparison, "txt"))[
        "Bootstrap: mean average precision with 95 % intervals"
    ]
    assert table["x7"] == ["78.4", "[30.0, 90.0]", "", ""]
    assert table["dW7"] == ["50.0", "[30.0, 90.0]", "-28.4", "[-31.0, -20.0]"]
    tex = format_tables(comparison, "tex")
    assert r"dW7 & 50.0 & [30.0, 90.0] & $-$28.4 & [$-$31.0, $-$20.0] \\" in tex


def test_own_sums_come_last_in_their_order() -> None:
    record = _record(0.5)
    names = ["x7+dW7", "dW6+dW7", "x5+dW7", "x6+dW7", "x5+dW6", "x7", "dW6"]
    record["features"] |= dict.fromkeys(names, record["features"]["x7"])
    text = format_tables(compare([Result("my_set", "vgg16", record)]), "txt")
    found = re.findall(r"^((?:x|dW)\d\S*) ", text, re.M)
    assert found == ["x7", "dW6", "dW7", *names[:5]]


def test_titles(comparison: dict[str, object]) -> None:
    text = format_tables(comparison, "txt")
    assert text.startswith("Table 1 (left): mean average precision\n")
    assert "Table 2: average precision on VOC2007, trainval to test\n" in text
    assert "By class: average precision on my_set, trainval to test\n" in text


def test_markdown(comparison: dict[str, object]) -> None:
    text = format_tables(comparison, "md")
    line = next(line for line in text.splitlines() if line.startswith("| x7"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["x7", "78.4", "79.4", "-1.0", "50.0", "50.0"]


def test_latex(comparison: dict[str, object]) -> None:
    text = format_tables(comparison, "tex")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 4
    # LaTeX numbers its tables itself.
    assert r"\caption{Mean average precision; the paper's table 1 (left).}" in text
    assert r"\caption{Average precision on my\_set, trainval to test.}" in text
    x7 = next(line for line in text.splitlines() if line.startswith("x7"))
    assert x7 == r"x7 & 78.4 & 79.4 & $-$1.0 & 50.0 & 50.0 \\"
    assert text.splitlines()[-1].startswith("% ")


NASTY = r"""a\b {c} ~d ^e #1 50% $x$ <f> "g" & [h]_"""


def test_latex_of_any_name_has_as_many_cells_as_columns() -> None:
    record = _record(0.5)
    for measured in record["features"].values():
        measured["AP"] = {NASTY: 0.5, "[option]": 0.5}
    results = [Result(NASTY, NASTY.replace(" ", ""), record)]
    results += [Result("VOC2007", "alexnet", _record(0.5))]
    text = format_tables(compare(results), "tex")
    for table in re.findall(r"\\begin\{tabular\}\{(l+r+)\}(.*?)\\end", text, re.DOTALL):
        columns, body = table
        rows = [row for row in body.splitlines() if row.endswith(r" \\")]
        assert len(rows) > 3
        for row in rows:
            cells = re.split(r"(?<!\\)&", row)
            spans = [re.match(r" *\\multicolumn\{(\d+)\}", cell) for cell in cells]
            widths = [int(span[1]) if span else 1 for span in spans]
            assert sum(widths) == len(columns)
            assert not row.startswith("[")
    bare = re.sub(r"\\[\\&%$#_{}]", "", text)  # without what is escaped
    assert bare.count("{") == bare.count("}")
    for character in "#^~_":
        assert character not in bare
    for line in bare.splitlines():
        assert "%" not in line.removesuffix("%") or line.startswith("% ")
        assert line.count("$") % 2 == 0


def test_without_the_papers_nets_there_is_no_word_of_it() -> None:
    comparison = compare([Result("my_set", "n", _record(0.5))])
    for suffix in FORMATS:
        assert "paper" not in format_tables(comparison, suffix).lower()
