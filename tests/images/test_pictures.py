"""Pictures in memory give what their files give."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fishing.errors import DataError
from fishing.evaluate import GradientFeatures
from fishing.images import collect_notes, picture, read_image


def _colours(rng) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))


def _made(rng, mode: str) -> tuple[Image.Image, str]:
    """Make an image of a mode, and name a format of files that keeps it."""
    rgb = _colours(rng)
    alpha = Image.fromarray(rng.integers(0, 256, (40, 50), dtype=np.uint8))
    if mode == "P with transparency":
        image = rgb.quantize(60)
        image.info["transparency"] = 3
        return image, "png"
    if mode == "PA":
        image = rgb.quantize(60).convert("PA")
        return image, ""
    if mode == "I;16":
        deep = rng.integers(0, 65536, (40, 50), dtype=np.uint16)
        return Image.fromarray(deep), "png"
    if mode == "I":
        deep = rng.integers(0, 65536, (40, 50), dtype=np.int32)
        return Image.fromarray(deep), ""
    image = rgb.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(alpha)
    if mode in ("RGBa", "La"):
        base = rgb.convert({"RGBa": "RGBA", "La": "LA"}[mode])
        base.putalpha(255)
        return base.convert(mode), ""
    formats = {"CMYK": "tiff", "YCbCr": "", "HSV": ""}
    return image, formats.get(mode, "png")


MODES = ["1", "L", "LA", "La", "P", "PA", "P with transparency", "RGB", "RGBA", "RGBa"]
MODES += ["RGBX", "CMYK", "YCbCr", "HSV", "I;16", "I"]


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_pillow(tmp_path: Path, rng, mode: str) -> None:
    image, kind = _made(rng, mode)
    found = picture(image)
    assert found.shape == (40, 50, 3)
    assert found.dtype == np.uint8
    if kind and mode != "RGBX":
        path = tmp_path / f"a.{kind}"
        image.save(path)
        tolerance = 3 if mode == "CMYK" else 1 if mode == "I;16" else 0
        np.testing.assert_allclose(
            found.astype(int), read_image(path).astype(int), atol=tolerance
        )
    elif mode != "I":
        middle = "LA" if mode == "La" else "RGBA"
        shown = np.asarray(image.convert(middle).convert("RGB"))[..., ::-1]
        np.testing.assert_array_equal(found, shown)
    else:
        expected = np.asarray(image) >> 8
        np.testing.assert_array_equal(found, np.stack([expected] * 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, rng, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    _colours(rng).save(path, exif=exif)
    with Image.open(path) as image:
        np.testing.assert_array_equal(picture(image), read_image(path))


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tiff", "bmp"])
def test_an_opened_file_has_the_features_of_the_file(tmp_path, rng, suffix) -> None:
    path = tmp_path / f"a.{suffix}"
    _colours(rng).resize((90, 70)).save(path)
    with Image.open(path) as image:
        both = GradientFeatures().transform([image, path])
    x, y = (row / np.linalg.norm(row) for row in both)
    assert x @ y > 0.9999


def test_16_bits_are_noted(rng) -> None:
    with collect_notes() as notes:
        picture(_made(rng, "I;16")[0])
    assert "more than 8 bits" in notes[0].text


def _truncated(rng) -> Image.Image:
    buffer = io.BytesIO()
    _colours(rng).save(buffer, "PNG")
    return Image.open(io.BytesIO(buffer.getvalue()[:-2000]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_truncated, "can be shown as RGB, found mode RGB and: "),
        (lambda _: Image.new("F", (9, 9)), "found floating-point values"),
        (lambda _: Image.new("I", (9, 9), 70_000), "found values from 70000 to 70000"),
        (lambda _: Image.new("I", (9, 9), -1), "found values from -1 to -1"),
    ],
)
def test_pillow_images_that_cannot_be_shown(rng, make, message: str) -> None:
    with pytest.raises(DataError, match=message):
        picture(make(rng))


@pytest.mark.parametrize(
    ("shape", "dtype", "top", "message"),
    [
        (
            (3, 40, 50),
            np.uint8,
            255,
            r"first; np.moveaxis\(image, 0, -1\)",
        ),
        ((1, 40, 50), np.uint8, 255, "channels come first"),
        ((4, 40, 50), np.uint8, 255, "channels come first"),
        ((3, 40, 50), np.float32, 1, "channels come first"),
        ((40, 50, 1), np.uint8, 255, r"image\[..., 0\] is the grey picture"),
        (
            (40, 50, 4),
            np.uint8,
            255,
            "out the alpha of RGBA; for CMYK, give the",
        ),
        ((40, 50, 2), np.uint8, 255, "give one picture for each image"),
        ((1, 40, 50, 3), np.uint8, 255, "give the pictures one by one"),
        ((40,), np.uint8, 255, "give one picture for each image"),
        ((), np.uint8, 255, "give one picture for each image"),
        ((0, 50, 3), np.uint8, 255, "give one picture for each image"),
        ((40, 50, 3), np.float32, 1, r"\(image \* 255\).round\(\).astype\(np.uint8\)"),
        (
            (40, 50, 3),
            np.float64,
            255,
            r"; image.round\(\).astype\(np.uint8\)",
        ),
        ((40, 50), np.float64, 255, r"; image.round\(\).astype\(np.uint8\)"),
        ((40, 50, 3), np.int64, 255, r"; image.round\(\).astype\(np.uint8\)"),
        ((40, 50, 3), np.uint16, 65535, r"\(image >> 8\).astype\(np.uint8\)"),
        ((40, 50), bool, 1, r"image.astype\(np.uint8\) \* 255"),
        ((40, 50, 3), np.float32, 1e6, "scaling the values to 0-255"),
        ((40, 50, 3), np.float32, np.nan, "scaling the values to 0-255"),
    ],
)
def test_arrays_that_are_no_pictures(shape, dtype, top, message: str) -> None:
    pixels = np.zeros(shape, dtype)
    if pixels.size:
        pixels.flat[-1] = top
    for order in ("RGB", "BGR"):
        with pytest.raises(DataError, match=message):
            picture(pixels, order)


@pytest.mark.parametrize("advice", ["moveaxis", "first channel", "round", "scale"])
def test_the_advice_gives_the_right_picture(rng, advice: str) -> None:
    image = np.asarray(_colours(rng))
    expected = picture(image)
    if advice == "moveaxis":
        again = np.moveaxis(np.moveaxis(image, -1, 0), 0, -1)
    elif advice == "first channel":
        grey = image[..., :1]
        again, expected = grey[..., 0], picture(np.repeat(grey, 3, axis=2))
    elif advice == "round":
        again = image.astype(np.float64).round().astype(np.uint8)
    else:
        again = (image / 255 * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(picture(again), expected)


def test_paths_stay_as_they_are() -> None:
    assert picture("a/b.jpg") == Path("a/b.jpg")
    assert picture(Path("a.jpg")) == Path("a.jpg")


def test_orders_of_channels(rng) -> None:
    pixels = np.asarray(_colours(rng))
    np.testing.assert_array_equal(picture(pixels, "BGR"), pixels)
    np.testing.assert_array_equal(picture(pixels, "RGB"), pixels[..., ::-1])
