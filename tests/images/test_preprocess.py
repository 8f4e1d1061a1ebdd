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

from fishing.errors import ImageError, NetError
from fishing.images import Preprocess, read_image

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
        Preprocess(227, 227).resize_and_crop(np.zeros((1, 10_000, 3), np.uint8))


# Channels, sizes and filters, each computed here in another way.


@pytest.mark.parametrize("shape", [*SIZES, (301, 250), (64, 129)])
@pytest.mark.parametrize("size", [64, 227])
def test_the_papers_way_gives_the_same_bytes_as_ever(
    rng, shape: tuple[int, int], size: int
) -> None:
    image = _smooth(rng, *shape)
    scale = size / min(shape)
    height, width = (max(size, round(n * scale)) for n in shape)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    y, x = (height - size) // 2, (width - size) // 2
    mean = np.float32([103.939, 116.779, 123.68])
    expected = resized[y : y + size, x : x + size].astype(np.float32) - mean
    found = Preprocess(size, size, mean=(103.939, 116.779, 123.68)).prepare(image)
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


def test_channels_means_and_scales(rng) -> None:
    image = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    mean, scale = (10.0, 20.0, 30.5), (0.5, 2.0, 0.25)
    for channels, shown in (("BGR", image), ("RGB", image[..., ::-1])):
        prepare = Preprocess(9, 7, channels=channels, mean=mean, scale=scale)
        expected = (shown - np.array(mean)) * scale
        np.testing.assert_allclose(
            prepare.prepare(image), expected.transpose(2, 0, 1), rtol=1e-6
        )


def test_grey_is_that_of_opencv_and_near_pillows(rng) -> None:
    image = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
    prepare = Preprocess(28, 28, channels="grey", mean=(0.0,), scale=(1 / 256,))
    (grey,) = prepare.prepare(image) * 256
    np.testing.assert_allclose(grey, image @ [0.114, 0.587, 0.299], atol=0.51)
    pillow = np.asarray(Image.fromarray(image[..., ::-1]).convert("L"), np.float32)
    np.testing.assert_allclose(grey, pillow, atol=1)
    for antialias in (False, True):
        small = Preprocess(
            **{"height": 8, "width": 12, "channels": "grey", "antialias": antialias},
            **{"mean": (0.0,), "scale": (1.0,)},
        )
        assert small.prepare(image).shape == small.shape == (1, 8, 12)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_filters(rng, antialias: bool, interpolation: str) -> None:
    image = _smooth(rng, 90, 130)
    prepare = Preprocess(
        20, 31, (30, 31), interpolation=interpolation, antialias=antialias
    )
    if antialias:
        chosen = getattr(Image.Resampling, interpolation.upper())
        expected = np.asarray(Image.fromarray(image).resize((31, 30), chosen))
    else:
        chosen = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
        expected = cv2.resize(image, (31, 30), interpolation=chosen[interpolation])
    np.testing.assert_array_equal(prepare.resize_and_crop(image), expected[5:25])


def test_roundings_differ_as_the_libraries_do() -> None:
    offsets = {}
    for rounding in ("caffe", "torchvision", "transformers"):
        prepare = Preprocess(256, 256, rounding=rounding)
        wide = np.broadcast_to(np.arange(387)[:, None] % 256, (256, 387, 3))
        tall = np.broadcast_to(np.arange(259)[:, None, None] % 256, (259, 257, 3))
        crop = prepare.resize_and_crop(wide.astype(np.uint8))
        height = prepare._resized_size(*tall.shape[:2])[0]
        offsets[rounding] = int(crop[0, 0, 0]), height
    # half of 131 is 65.5; 259 * 256 / 257 is 257.99
    assert offsets == {
        "caffe": (65, 258),
        "torchvision": (66, 257),
        "transformers": (65, 257),
    }


def test_settings_that_do_not_fit_are_refused() -> None:
    for settings, message in (
        ({"channels": "CMYK"}, "channels of an input"),
        ({"interpolation": "lanczos"}, "interpolation of an input"),
        ({"rounding": "up"}, "rounding of an input"),
        ({"channels": "grey"}, "`mean` of grey"),
        ({"mean": (1.0,)}, "`mean` of BGR"),
        ({"mean": (1.0, 2.0, float("nan"))}, "`mean` of BGR"),
        ({"scale": (1.0, 2.0, 0.0)}, "`scale` of BGR"),
        ({"resize": 31}, "at least the 32 x 32"),
        ({"resize": (32, 31)}, "at least the 32 x 32"),
    ):
        with pytest.raises(NetError, match=message):
            Preprocess(32, 32, **settings)


def test_a_description_is_the_table_of_a_net_toml() -> None:
    assert Preprocess(227, 227, mean=(104.0, 117.0, 123.0)).describe() == {
        **{"size": 227, "resize": 227, "interpolation": "bilinear"},
        **{"antialias": False, "rounding": "caffe", "channels": "BGR"},
        **{"mean": [104.0, 117.0, 123.0], "scale": [1.0, 1.0, 1.0]},
    }
    described = Preprocess(32, 48, (40, 64), antialias=True).describe()
    assert (described["size"], described["resize"]) == ([32, 48], [40, 64])
    assert "resize" not in Preprocess(32, 48).describe()


def test_a_photograph_is_decoded_as_pillow_does(tmp_path: Path, rng) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(_smooth(rng, 90, 131)).save(path, quality=90)
    np.testing.assert_allclose(read_image(path)[..., ::-1], _rgb_of(path), atol=1)


@pytest.mark.parametrize("scale", [1.0, 0.017])
@pytest.mark.parametrize("shape", [(40, 50), (20, 31), (33, 25)])
def test_pycaffes_transformer(rng, shape: tuple[int, int], scale: float) -> None:
    io = pytest.importorskip("caffe.io")
    image = _smooth(rng, *shape)
    transformer = io.Transformer({"data": (1, 3, 40, 50)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", np.array([104.0, 117.0, 123.0]))
    transformer.set_input_scale("data", scale)
    rgb = (image[..., ::-1] / 255).astype(np.float32)  # what caffe.io.load_image gives
    expected = transformer.preprocess("data", rgb)
    mean = (104.0, 117.0, 123.0)
    found = Preprocess(40, 50, (40, 50), mean=mean, scale=(scale,) * 3).prepare(image)
    if shape == (40, 50):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3 * scale)
    else:
        # It keeps fractions of levels, and darkens the borders of what it enlarges.
        inner = np.s_[:, 2:-2, 2:-2]
        np.testing.assert_allclose(found[inner], expected[inner], atol=1.01 * scale)
