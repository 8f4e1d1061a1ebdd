"""Images of more than 8 bits, and of floating-point values, are said to be reduced."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fishing.errors import ImageError
from fishing.images import collect_notes, read_image


def _write(path: Path, pixels: np.ndarray, *options: int) -> Path:
    encoded = cv2.imencode(path.suffix, pixels, options)[1]
    path.write_bytes(np.asarray(encoded).tobytes())
    return path


def _notes(path: Path) -> list[str]:
    with collect_notes() as notes:
        read_image(path)
    return [note.text for note in notes]


@pytest.mark.parametrize("top", [4095, 65535])
@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pnm", ".jp2"])
def test_deep_images(tmp_path: Path, rng, suffix: str, n_channels: int, top) -> None:
    pixels = rng.integers(0, top + 1, (40, 50, n_channels), dtype=np.uint16)
    suffix = {".pnm": ".pgm" if n_channels == 1 else ".ppm"}.get(suffix, suffix)
    path = _write(tmp_path / f"a{suffix}", pixels)
    assert ["the upper 8 are kept" in text for text in _notes(path)] == [True]
    deep = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    assert deep.dtype == np.uint16
    np.testing.assert_allclose(read_image(path), deep / 257, atol=1.01)


def test_ten_bits_of_avif(tmp_path: Path) -> None:
    pixels = np.full((40, 50, 3), 500, np.uint16)
    try:
        path = _write(tmp_path / "a.avif", pixels, cv2.IMWRITE_AVIF_DEPTH, 10)
    except cv2.error:
        pytest.skip("this OpenCV writes no AVIF")
    assert len(_notes(path)) == 1


@pytest.mark.parametrize("suffix", [".hdr", ".pfm"])
def test_floating_point(tmp_path: Path, suffix: str) -> None:
    path = _write(tmp_path / f"a{suffix}", np.full((40, 50, 3), 0.5, np.float32))
    assert ["floating-point values" in text for text in _notes(path)] == [True]


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_point_tiff(tmp_path: Path, n_channels: int, dtype) -> None:
    pixels = np.full((40, 50, n_channels), 0.5, dtype)
    path = _write(tmp_path / "a.tiff", pixels)
    with pytest.raises(ImageError, match="such as one of floating-point values"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "bmp", "webp", "gif", "ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA"])
def test_8_bits_are_not_remarkable(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"a.{suffix}"
    try:
        Image.new("RGB", (50, 40), "red").convert(mode).save(path)
    except OSError:
        pytest.skip(f"there is no {suffix} of mode {mode}")
    assert _notes(path) == []
