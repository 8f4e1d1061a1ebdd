from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fishing.errors import ImageError
from fishing.images import Preprocess, read_image, resize_and_crop

SIZES = [(64, 64), (65, 97), (333, 227), (41, 120), (500, 375), (227, 227), (1, 1)]


def _smooth(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Make a picture that JPEG keeps well, with three different channels."""
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def _bilinear(image: NDArray, height: int, width: int) -> NDArray[np.float64]:
    """Resize in float64, pixel centres at half, borders repeated: the definition."""
    out = image.astype(np.float64)
    for axis, n_new in ((0, height), (1, width)):
        n_old = out.shape[axis]
        at = (np.arange(n_new) + 0.5) * n_old / n_new - 0.5
        below = np.floor(at).astype(int)
        weight = (at - below).reshape([-1 if i == axis else 1 for i in range(3)])
        low, high = (np.clip(below + i, 0, n_old - 1) for i in (0, 1))
        out = np.take(out, low, axis) * (1 - weight) + np.take(out, high, axis) * weight
    return out


def _reference(image: NDArray, size: int, mean: tuple[float, ...]) -> NDArray:
    """Prepare a BGR image as the paper says, with a resize of the test's own."""
    height, width = image.shape[:2]
    if height <= width:
        new_height, new_width = size, max(size, round(width * size / height))
    else:
        new_height, new_width = max(size, round(height * size / width)), size
    resized = _bilinear(image, new_height, new_width)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    crop = resized[top : top + size, left : left + size]
    return np.stack([crop[..., c] - mean[c] for c in range(3)])


def _rgb_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("size", [64, 227])
def test_odd_sizes(tmp_path: Path, rng, shape: tuple[int, int], size: int) -> None:
    path = tmp_path / "a.png"
    image = _smooth(rng, *shape)
    cv2.imwrite(str(path), image)
    mean = (104.0, 117.0, 123.0)
    data = Preprocess(size, size, mean=mean)(path)
    assert data.shape == (3, size, size)
    assert data.dtype == np.float32
    # OpenCV's 8-bit filter rounds twice: one grey level.
    np.testing.assert_allclose(data, _reference(image, size, mean), atol=1.01)


def test_grey(tmp_path: Path, rng) -> None:
    path = tmp_path / "a.png"
    grey = _smooth(rng, 80, 70)[..., 0]
    cv2.imwrite(str(path), grey)
    np.testing.assert_array_equal(read_image(path), np.stack([grey] * 3, axis=2))


def test_16_bit(tmp_path: Path, rng) -> None:
    path = tmp_path / "a.png"
    deep = rng.integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    cv2.imwrite(str(path), deep)
    np.testing.assert_allclose(read_image(path), deep / 257, atol=1)


def test_alpha_is_dropped(tmp_path: Path, rng) -> None:
    path = tmp_path / "a.png"
    rgba = rng.integers(0, 256, (40, 50, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(path)
    np.testing.assert_array_equal(read_image(path), rgba[..., 2::-1])


def test_cmyk(tmp_path: Path, rng) -> None:
    path = tmp_path / "a.jpg"
    rgb = _smooth(rng, 60, 90)
    Image.fromarray(rgb).convert("CMYK").save(path, quality=98)
    assert Image.open(path).mode == "CMYK"
    np.testing.assert_allclose(read_image(path)[..., ::-1], _rgb_of(path), atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, rng, orientation: int) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(_smooth(rng, 60, 90)).save(path, quality=98, exif=exif)
    expected = _rgb_of(path)
    assert expected.shape[:2] == ((60, 90) if orientation < 5 else (90, 60))
    np.testing.assert_allclose(read_image(path)[..., ::-1], expected, atol=3)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animation_gives_its_first_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(read_image(path)[5, 5], [0, 0, 255])


def test_what_stands_outside_of_a_png_animation_is_its_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    still, *frames = (Image.new("RGB", (30, 20), c) for c in ("red", "blue", "lime"))
    still.save(path, save_all=True, append_images=frames, default_image=True)
    np.testing.assert_array_equal(read_image(path)[5, 5], [0, 0, 255])


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        sum_ = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + sum_

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def _encoded(suffix: str, rng, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_smooth(rng, 80, 90)).save(buffer, suffix, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("cut", [20, 200, -300, -2])
def test_truncated_jpeg(tmp_path: Path, rng, cut: int) -> None:
    path = tmp_path / "a.jpg"
    whole = _encoded("jpeg", rng)
    path.write_bytes(whole)
    read_image(path)
    path.write_bytes(whole[:cut])
    with pytest.raises(ImageError, match="truncated JPEG"):
        read_image(path)


def test_truncated_jpeg_with_a_whole_thumbnail(tmp_path: Path, rng) -> None:
    path = tmp_path / "a.jpg"
    comment = _encoded("jpeg", rng)  # ends in a marker of its own
    whole = _encoded("jpeg", rng, comment=comment, progressive=True)
    path.write_bytes(whole)
    read_image(path)
    path.write_bytes(whole[:-100])
    with pytest.raises(ImageError, match="truncated JPEG"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "gif"])
def test_other_truncated_files(tmp_path: Path, rng, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    whole = _encoded(suffix, rng)
    path.write_bytes(whole)
    read_image(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError):
        read_image(path)


def test_what_follows_a_png_is_no_part_of_it(tmp_path: Path, rng) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_encoded("png", rng))
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + b"\xff" * 50)
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"not an image at all\n" * 10, "not an image"),
        (_png_header(50_000, 50_000), "too large"),
        (_png_header(12_000, 12_000), "too large: 12000 x 12000"),
        (_png_header(9, 9)[:33] + b"\x7f\0\0\0IDAT" + bytes(99), "truncated PNG"),
    ],
)
def test_unreadable(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read_image(path)


def test_missing_and_huge_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="Is a directory"):
        read_image(tmp_path)
    sparse = tmp_path / "sparse.jpg"
    with sparse.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(ImageError, match="too large"):
        read_image(sparse)


def test_needle(rng) -> None:
    with pytest.raises(ImageError, match="too narrow"):
        resize_and_crop(np.zeros((1, 10_000, 3), np.uint8), 227)
