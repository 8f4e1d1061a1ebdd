"""Put two plots of a report side by side, as the picture of the README.

`make picture` calls this with the folder of the plots and the file to write.
"""

import sys
from pathlib import Path

WIDTH, HEIGHT = 724, 424
STYLE = "font-family: sans-serif; fill: #1b1e23"
TITLES = {
    (12, 26): "Mean average precision",
    (372, 26): "By class: gradient dW7 over activations x7",
}
CAPTION = (
    "TinyAlexNet on 1,200 images from twenty",
    "photographs. An SVM for each class, C = 1.",
    "x: activations, y8: logits, dW: gradients.",
    "Whiskers: 95 % intervals of a bootstrap.",
)


def picture(plots: Path) -> str:
    """Draw both plots with their titles and a caption."""
    titles = [
        f'<text x="{x}" y="{y}" font-size="12" font-weight="bold">{title}</text>'
        for (x, y), title in TITLES.items()
    ]
    caption = [
        f'<text x="12" y="{336 + 17 * i}" font-size="10.5" fill="#6a717b">{line}</text>'
        for i, line in enumerate(CAPTION)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{1.25 * WIDTH:g}" height="{1.25 * HEIGHT:g}" style="{STYLE}">',
            '<rect width="100%" height="100%" rx="6" fill="#fdfdfc"/>',
            *titles,
            *caption,
            _nested(plots / "means.svg", 4),
            _nested(plots / "differences.svg", 364),
            "</svg>\n",
        ]
    )


def _nested(path: Path, x: int) -> str:
    """Take a plot without the head of its file, at a place of its own."""
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg x="{x}" y="40"', 1)
    head, found, rest = svg.partition("<metadata>")
    head = head.replace('pt"', '"')  # the units of the picture
    return (head + rest.partition("</metadata>")[2] if found else head).strip()


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(picture(Path(sys.argv[1])), encoding="utf-8")
