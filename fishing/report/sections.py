"""The sections of a report's page: the variables of its template, page.html.j2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from fishing.kernels import GRADIENTS, main_feature, parse_feature
from fishing.paper import paper_figures, paper_source, published_figures
from fishing.progress import Progress
from fishing.report.plots import (
    COLOURS,
    PrecisionRecallPlots,
    difference_plot,
    for_page,
    gram_plot,
    means_plot,
    norms_plot,
    temperature_plot,
)
from fishing.report.statistics import (
    Ranked,
    class_grams,
    compared,
    curve,
    gradient_norms,
    moves,
)
from fishing.report.thumbnails import Thumbnails
from fishing.store import Split

_TOP, _MOVED = 12, 6  # images of a ranking, and of those that moved


class Sections:
    """The sections of one page, made of the record of an evaluation and its test split.

    `plots` has the text of the page's SVG files, by name.
    """

    def __init__(
        self,
        record: dict[str, Any],
        ranked: Ranked,
        testing: Split,
        thumbnails: Thumbnails,
    ) -> None:
        self.record = record
        self.results: dict[str, Any] = record["features"]
        self.ranked, self.testing, self.thumbnails = ranked, testing, thumbnails
        self.baseline, self.challenger = compared(
            self.results, testing.blobs, record.get("bootstrap", {}).get("reference")
        )
        self.paper = paper_figures(
            testing.devkit, record["test"], record["source"]["net"]
        )
        self.plots: dict[str, str] = {}
        self._precision_recall_plot = PrecisionRecallPlots()

    def variables(
        self, tempered: Sequence[tuple[float, dict[str, Any]]], progress: Progress
    ) -> dict[str, Any]:
        """Make the variables of the template; `tempered` is for other temperatures."""
        measured = [
            name
            for name in self.record["classes"]
            if self.results[self.baseline]["AP"][name] is not None
        ]
        classes = []
        for done, name in enumerate(measured):
            classes.append(self._class(name))
            progress("pictures", done + 1, len(measured), "classes")
        differences = self._differences(measured)
        source = self.record["source"]
        name = self.testing.devkit or self.thumbnails.name
        return {
            "title": f"{source['net']} on {name}" if name else source["net"],
            "record": self.record,
            "source": source,
            "n_test": len(self.ranked.image_id),
            "baseline": self.baseline,
            "challenger": self.challenger,
            "n_better": sum(d > 0 for d in differences.values()),
            "means": self._means(),
            "paper": paper_source() if self.paper else None,
            "paper_means": self.paper.class_mean,
            "published": published_figures() if self.paper else (),
            "means_plot": self._means_plot(),
            "by_class": self._by_class(measured),
            "chosen": max(measured, key=lambda name: abs(differences[name])),
            "differences": self._plot(
                "differences",
                difference_plot(
                    differences,
                    f"AP of {self.challenger} minus AP of {self.baseline}, in points",
                    self._intervals_by_class(measured),
                ),
                f"Difference of average precision, {self.challenger} minus "
                f"{self.baseline}, by class",
            ),
            "classes": classes,
            "precisions": {f: r["AP"] for f, r in self.results.items()},
            "colours": COLOURS,
            "grams": self._grams(measured),
            "temperatures": self._temperatures(tempered),
            "norms": self._norms(),
            "thumbnails": self.thumbnails.sources,
            "has_images": bool(self.thumbnails.name),
        }

    def _plot(self, name: str, svg: str, title: str) -> Markup:
        """Keep a plot as a file, and make it part of the page."""
        self.plots[name] = svg
        # Matplotlib escapes its text, and for_page the title.
        return Markup(for_page(svg, name, title))

    def _differences(self, classes: Sequence[str]) -> dict[str, float]:
        a, b = (self.results[f]["AP"] for f in (self.challenger, self.baseline))
        return {name: a[name] - b[name] for name in classes}

    def _means(self) -> list[dict[str, Any]]:
        """Make the lines of table 1 (left)."""
        base = self.results[self.baseline]["mAP"]
        best = max(result["mAP"] for result in self.results.values())
        return [
            {
                "feature": feature,
                "ours": result["mAP"],
                "is_best": result["mAP"] == best,
                "over_baseline": (
                    None if feature == self.baseline else result["mAP"] - base
                ),
                "paper": self.paper.mean.get(feature),
                "spread": result.get("spread", {}).get("mAP"),
                "interval": result.get("interval", {}).get("mAP"),
                "interval_over": result.get("difference", {}).get("mAP"),
            }
            for feature, result in self.results.items()
        ]

    def _means_plot(self) -> Markup | None:
        """Draw the means with their intervals, if there was a bootstrap."""
        intervals = {
            feature: result["interval"]["mAP"]
            for feature, result in self.results.items()
            if result.get("interval", {}).get("mAP")
        }
        if len(intervals) < len(self.results):
            return None
        means = {feature: result["mAP"] for feature, result in self.results.items()}
        label = "mAP in per cent, with 95 % intervals"
        return self._plot("means", means_plot(means, intervals, label), label)

    def _intervals_by_class(self, classes: Sequence[str]) -> dict[str, Any]:
        """Find the intervals of the differences by class; none without a bootstrap."""
        found = self.results[self.challenger].get("difference", {"AP": {}})["AP"]
        intervals = {name: found.get(name) for name in classes}
        return intervals if all(intervals.values()) else {}

    def _by_class(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Make the lines of the table by class."""
        paper = self.paper.by_class
        lines = []
        for name in classes:
            values = {f: result["AP"][name] for f, result in self.results.items()}
            lines.append(
                {
                    "name": name,
                    "values": values,
                    "intervals": {
                        feature: result["interval"]["AP"][name]
                        for feature, result in self.results.items()
                        if "interval" in result
                    },
                    "best": max(values.values()),
                    "paper": {
                        feature: paper[feature].get(name)
                        for feature in (self.baseline, self.challenger)
                        if feature in paper
                    },
                }
            )
        return lines

    def _class(self, name: str) -> dict[str, Any]:
        """Make the curves and rankings of one class."""
        column = self.ranked.classes.index(name)
        curves = {f: curve(self.ranked, f, column) for f in self.results}
        gained, lost = moves(
            self.ranked, self.baseline, self.challenger, column, _MOVED
        )
        labels = self.ranked.labels[:, column]

        def picture(image: int) -> dict[str, Any]:
            place = int(image)
            return {"image": self.thumbnails(place), "id": self.ranked.image_id[place]}

        return {
            "name": name,
            "n_positive": int((labels > 0).sum()),
            "n_ranked": int((labels != 0).sum()),
            "plot": self._plot(
                f"precision-recall-{column}",
                self._precision_recall_plot(curves),
                f"Precision over recall, class {name}",
            ),
            "rankings": {
                feature: [
                    {**picture(i), "rank": place, "is_right": bool(labels[i] > 0)}
                    for place, i in enumerate(
                        self.ranked.order(feature, column)[:_TOP], 1
                    )
                ]
                for feature in (self.baseline, self.challenger)
            },
            "moves": {
                key: [
                    {**picture(m.image), "before": m.before, "after": m.after}
                    for m in found
                ]
                for key, found in (("gained", gained), ("lost", lost))
            },
        }

    def _grams(self, classes: Sequence[str]) -> dict[str, Any] | None:
        """Draw the Gram matrices of a gradient, if there are images to compare."""
        feature = self.challenger
        if feature not in GRADIENTS:
            feature = main_feature(self.testing.blobs)
        if feature not in GRADIENTS:
            return None
        grams = class_grams(self.testing, classes, feature)
        if len(grams.parts["product"]) < 2:
            return None
        parts = []
        for part in grams.parts:
            same, other = grams.contrast(part)
            title = f"Gram matrix, {part}, images sorted by class"
            parts.append(
                {
                    "name": part,
                    "plot": self._plot(f"gram-{part}", gram_plot(grams, part), title),
                    "same": same,
                    "other": other,
                }
            )
        ((forward, backward),) = parse_feature(feature)
        return {
            "feature": feature,
            "forward": forward.removeprefix("forward/"),
            "backward": f"dE/d{backward.removeprefix('backward/')}",
            "n_images": len(grams.parts["product"]),
            "parts": parts,
        }

    def _norms(self) -> Markup | None:
        """Draw the norms of the gradients, if there are any."""
        norms = gradient_norms(self.testing)
        if not norms:
            return None
        title = "Distribution of the norms of the gradients"
        return self._plot("norms", norms_plot(norms), title)

    def _temperatures(
        self, tempered: Sequence[tuple[float, dict[str, Any]]]
    ) -> Markup | None:
        """Draw mAP over tau, if there are results at several temperatures."""
        if not tempered:
            return None
        points = [(self.record["source"]["temperature"], self.record), *tempered]
        curves = {
            feature: sorted(
                (tau, record["features"][feature]["mAP"])
                for tau, record in points
                if feature in record["features"]
            )
            for feature in GRADIENTS
            if feature in self.results
        }
        level = self.baseline, self.results[self.baseline]["mAP"]
        return self._plot(
            "temperatures",
            temperature_plot(curves, None if level[0] in curves else level),
            "Mean average precision over the temperature",
        )
