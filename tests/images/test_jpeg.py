"""JPEGs whose picture is not whole, although their end marker is there."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fishing.errors import ImageError
from fishing.images import catch_messages, collect_notes, decoder_messages, read_image

WAYS = {
    "baseline": {},
    "optimised": {"optimize": True},
    "coarse": {"quality": 20},
    "fine": {"quality": 100, "subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "restart rows": {"restart_marker_rows": 1},
}


def _picture(rng, height: int = 90, width: int = 115) -> Image.Image:
    small = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    big = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return Image.fromarray(cv2.add(big, rng.integers(0, 9, big.shape, dtype=np.uint8)))


def _encoded(image: Image.Image, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 85, **how})
    return buffer.getvalue()


def _cut(encoded: bytes, share: float) -> bytes:
    """Cut the data of a scan, and put the end marker behind what is left."""
    start = encoded.find(b"\xff\xda") + 14
    end = len(encoded) - 2
    return encoded[: start + int(share * (end - start))] + b"\xff\xd9"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", [0.03, 0.5, 0.8, 0.99])
def test_half_a_jpeg_fails(tmp_path: Path, rng, mode: str, way: str, share) -> None:
    if way == "progressive" and share > 0.5:
        pytest.skip("the last scan, which gives every coefficient its last bit")
    path = tmp_path / "a.jpg"
    whole = _encoded(_picture(rng).convert(mode), **WAYS[way])
    path.write_bytes(whole)
    read_image(path)
    path.write_bytes(_cut(whole, share))
    with pytest.raises(ImageError, match=r"truncated JPEG: (its data end|scans are)"):
        read_image(path)


@pytest.mark.parametrize(
    "size", [(8, 33), (16, 17), (17, 33), (64, 65), (1, 90), (90, 1)]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_size_and_orientation(tmp_path: Path, rng, size, orientation) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    whole = _encoded(_picture(rng, *size), exif=exif)
    path.write_bytes(whole)
    read_image(path)
    path.write_bytes(_cut(whole, 0.4))
    with pytest.raises(ImageError, match="truncated JPEG: its data end"):
        read_image(path)


def _grey_tail(mode: str) -> Image.Image:
    pixels = np.full((90, 115, 3), 128, np.uint8)
    pixels[:40] = 77
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("way", WAYS)
def test_grey_pictures_are_good(tmp_path: Path, mode: str, way: str, capfd) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_encoded(_grey_tail(mode), **WAYS[way]))
    read_image(path)
    assert capfd.readouterr().err == ""


def test_what_follows_the_end_is_no_part_of_it(tmp_path: Path, rng) -> None:
    """Cameras append previews and other data, with end markers of their own."""
    path = tmp_path / "a.jpg"
    whole = _encoded(_picture(rng))
    for image in (whole, _encoded(_grey_tail("RGB"))):
        for tail in (b"\0" * 40, whole, b"trailer \xff\xd9"):
            path.write_bytes(image + tail)
            read_image(path)
            path.write_bytes(_cut(image, 0.2) + tail)
            with pytest.raises(ImageError, match="truncated JPEG: its data end"):
                read_image(path)


def test_a_thumbnail_with_an_end_marker(tmp_path: Path, rng) -> None:
    path = tmp_path / "a.jpg"
    whole = _encoded(_picture(rng), comment=_encoded(_picture(rng, 20, 20)))
    path.write_bytes(whole)
    read_image(path)


def _in_thread(path: Path) -> list:
    def read() -> list:
        with collect_notes() as notes:
            read_image(path)
        return notes

    with ThreadPoolExecutor(1, initializer=catch_messages) as pool:
        return pool.submit(read).result()


def _needs_own_descriptors() -> None:
    def catches() -> bool:
        return getattr(decoder_messages._this_thread, "catches", False)

    with ThreadPoolExecutor(1, initializer=catch_messages) as pool:
        caught = pool.submit(catches).result()
    if not caught:
        pytest.skip("this system gives threads no descriptors of their own")


def _damaged(rng, kind: str) -> bytes:
    whole = _encoded(_picture(rng))
    middle = len(whole) // 2
    if kind == "zeros":
        return whole[:middle] + bytes(200) + whole[middle + 200 :]
    if kind == "doubled":
        return whole[:middle] + whole[middle - 300 :]
    assert kind == "last scan"
    return _cut(_encoded(_picture(rng), progressive=True), 0.97)


@pytest.mark.parametrize("kind", ["zeros", "doubled", "last scan"])
def test_other_damage_is_noted(tmp_path: Path, rng, kind: str, capfd) -> None:
    _needs_own_descriptors()
    path = tmp_path / "a.jpg"
    path.write_bytes(_damaged(rng, kind))
    try:
        notes = _in_thread(path)
    except ImageError:
        return
    assert not notes or notes[0].is_damage
    assert capfd.readouterr().err == ""
    path.write_bytes(_encoded(_picture(rng)))
    assert _in_thread(path) == []


def test_other_threads_keep_their_stderr(tmp_path: Path, rng, capfd) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_encoded(_picture(rng)))
    _in_thread(path)
    os.write(2, b"here")
    assert capfd.readouterr().err == "here"


def test_systems_that_do_not_allow_it(tmp_path: Path, rng, monkeypatch) -> None:
    """There everything works as before; only the messages have no name."""

    class Refusing:
        def unshare(self, flags: int) -> int:
            return -1

    monkeypatch.setattr(decoder_messages.ctypes, "CDLL", lambda _: Refusing())
    path = tmp_path / "a.jpg"
    path.write_bytes(_encoded(_picture(rng)))
    assert _in_thread(path) == []
    path.write_bytes(_cut(path.read_bytes(), 0.5))
    with pytest.raises(ImageError, match="truncated JPEG"):
        read_image(path)
