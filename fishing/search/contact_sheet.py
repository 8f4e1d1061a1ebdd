"""Contact sheets: many images and their captions as one picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import cv2
from PIL import Image, ImageDraw, ImageFont

from fishing.errors import DataError, ImageError
from fishing.files import whole_file
from fishing.images import find_image, read_image
from fishing.search.ranking import Neighbour

_SIDE, _GAP, _LINE = 160, 12, 17
_N_LINES = 3
_Tile: TypeAlias = tuple[Image.Image | None, Sequence[str]]
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (120, 120, 120)


def write_sheet(
    output: Path,
    query: Path,
    found: Mapping[str, Sequence[Neighbour]],
    data: Path,
) -> Path:
    """Draw the query and its neighbours, a row for each feature.

    Parameters
    ----------
    output : Path
        The picture to write. Its suffix chooses the format.
    query : Path
        The image file of the query.
    found : mapping of str to sequence of Neighbour
        By feature, as `fishing.search.search_photo` returns them.
    data : Path
        The devkit or folder of images that the features were extracted from.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    DataError
        If no image of a neighbour can be read, or the picture cannot be written.
    """
    paths = {
        n.image_id: find_image(data, n.image_id) for ns in found.values() for n in ns
    }
    tiles = {image_id: _tile(path) for image_id, path in paths.items()}
    if tiles and not any(tiles.values()):
        raise DataError(
            f"expected the images of the features file in '{data}', found none of "
            f"them, such as {next(iter(paths.values()))}; name their folder with --data"
        )
    rows = [
        [
            (_tile(query), [query.name, "query", feature]),
            *((tiles[n.image_id], _caption(i, n)) for i, n in enumerate(ns, start=1)),
        ]
        for feature, ns in found.items()
    ]
    return _save(_lay_out(rows), output)


def write_gallery(
    output: Path, pictures: Iterable[tuple[Path, Sequence[str]]], n_columns: int = 8
) -> Path:
    """Draw pictures row by row, with captions of three lines or fewer below them.

    Parameters
    ----------
    output : Path
        The picture to write. Its suffix chooses the format.
    pictures : iterable of (Path, sequence of str)
        Image files and their captions; at least one.
    n_columns : int

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    DataError
        If the picture cannot be written.
    """
    tiles = [(_tile(path), caption) for path, caption in pictures]
    rows = [tiles[i : i + n_columns] for i in range(0, len(tiles), n_columns)]
    return _save(_lay_out(rows), output)


def _caption(rank: int, n: Neighbour) -> list[str]:
    return [f"{rank}: {n.similarity:.3f}", n.image_id, " ".join(n.classes)]


def _lay_out(rows: Sequence[Sequence[_Tile]]) -> Image.Image:
    """Draw rows of tiles with their captions."""
    cell = (_SIDE + _GAP, _SIDE + _GAP + _N_LINES * _LINE)
    n_columns = max(map(len, rows))
    size = (n_columns * cell[0] + _GAP, len(rows) * cell[1] + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    for i, row in enumerate(rows):
        for j, (tile, caption) in enumerate(row):
            _draw(sheet, (j * cell[0] + _GAP, i * cell[1] + _GAP), tile, caption)
    return sheet


def _tile(path: Path) -> Image.Image | None:
    """Read an image and fit it into a square; return None if it cannot be read."""
    try:
        image = Image.fromarray(cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB))
    except ImageError:
        return None
    scale = _SIDE / max(image.size)
    width, height = (max(1, round(n * scale)) for n in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _draw(
    sheet: Image.Image,
    place: tuple[int, int],
    tile: Image.Image | None,
    caption: Sequence[str],
) -> None:
    """Draw a tile and the lines below it."""
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    left, top = place
    if tile is None:
        box = (left, top, left + _SIDE, top + _SIDE)
        pen.rectangle(box, outline=_FAINT)
        pen.text((left + 8, top + 8), "no image", fill=_FAINT, font=font)
    else:
        middle = [(_SIDE - n) // 2 for n in tile.size]
        sheet.paste(tile, (left + middle[0], top + middle[1]))
    for i, text in enumerate(caption):
        y = top + _SIDE + i * _LINE + 2
        pen.text((left, y), _fitting(text, font), fill=_INK, font=font)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Cut a caption to the width of a tile; keep its end, where names differ."""
    if font.getlength(text) <= _SIDE:
        return text
    while text and font.getlength("…" + text) > _SIDE:
        text = text[1:]
    return "…" + text


def _save(sheet: Image.Image, output: Path) -> Path:
    """Write the picture in the format that its suffix names."""
    try:
        with whole_file(output) as unfinished:
            sheet.save(unfinished)
    except (OSError, ValueError) as error:
        raise DataError(
            f"expected to write a picture into '{output}', found: {error}; choose "
            "another --sheet, such as sheet.png"
        ) from None
    return output
