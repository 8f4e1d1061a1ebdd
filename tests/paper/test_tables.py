from __future__ import annotations

import json
import re

import pytest

from fishing.paper import Result, compare, format_tables
from fishing.paper import figures as paper
from fishing.paper.tables import FORMATS


def _record(x7: float, boat: float | None = 0.25) -> dict[str, object]:
    ap = {"boat": boat, "car": 0.75}
    features = {"x7": {"mAP": x7, "AP": ap}, "dW7": {"mAP": 0.5, "AP": ap}}
    return {
        **{"protocol": "voc2007", "train": "trainval", "test": "test", "C": 1.0},
        "features": features,
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


def test_comparison(comparison: dict[str, object]) -> None:
    assert json.loads(json.dumps(comparison)) == comparison
    alexnet = comparison["results"]["VOC2007"]["alexnet"]
    assert (alexnet["train"], alexnet["C"]) == ("trainval", 1.0)
    mean = alexnet["features"]["x7"]["mAP"]
    assert (mean["ours"], mean["paper"]) == (0.784, 0.794)
    assert mean["difference"] == pytest.approx(-0.01)
    boat = alexnet["features"]["x7"]["AP"]["boat"]
    assert boat == {"ours": 0.25, "paper": None, "difference": None}


def test_text(comparison: dict[str, object]) -> None:
    table1, table2, by_class, note = (
        part
        for part in format_tables(comparison, "txt").split("\n\n")
        if " " in part and not part.endswith(("precision", "test"))
    )
    rows = {line.split()[0]: line.split()[1:] for line in table1.splitlines()[3:]}
    #      alexnet, paper, difference; tinyalexnet; vgg16 on my_set
    assert rows["x7"] == ["78.4", "79.4", "-1.0", "50.0", "50.0"]
    assert rows["dW7"] == ["50.0", "80.9", "-30.9", "50.0", "50.0"]
    rows = {line.split()[0]: line.split()[1:] for line in table2.splitlines()[3:]}
    assert rows["boat"] == ["25.0", "-", "-", "25.0", "-", "-", "25.0", "25.0"]
    assert rows["mean"][:3] == ["78.4", "79.4", "-1.0"]
    assert by_class.splitlines()[-2].split() == ["boat", "-", "-"]
    assert "arXiv:1507.06429" in note


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
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
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


def test_new_figures_are_data_entry_only(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"alexnet": {"AP": {"dW7": {"boat": 24.0}}}}
    monkeypatch.setattr(paper, "_read", lambda: {"source": "s", "VOC2012": data})
    comparison = compare([Result("VOC2012", "alexnet", _record(0.5))])
    text = format_tables(comparison, "txt")
    boat = next(line for line in text.splitlines() if line.startswith("boat"))
    assert boat.split() == ["boat", "25.0", "-", "-", "25.0", "24.0", "+1.0"]


def test_without_the_papers_nets_there_is_no_word_of_it() -> None:
    comparison = compare([Result("my_set", "n", _record(0.5))])
    for suffix in FORMATS:
        assert "paper" not in format_tables(comparison, suffix).lower()
