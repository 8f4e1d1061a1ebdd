from __future__ import annotations

import base64
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from fishing.errors import DataError
from fishing.images import Preprocess, read_image, read_splits
from fishing.report.thumbnails import SIZE, Thumbnails


def test_it_is_the_crop_that_the_net_sees(devkit: Path) -> None:
    (images,) = read_splits(devkit, ["test"])
    thumbnails = Thumbnails(images.image_id, "test", devkit)
    assert thumbnails(3) == thumbnails(3) == "3"
    assert thumbnails.name == "VOC2007"
    (source,) = thumbnails.sources.values()
    head, text = source.split(",")
    assert head == "data:image/jpeg;base64"
    found = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), 1)
    expected = Preprocess(SIZE, SIZE).resize_and_crop(read_image(images.path[3]))
    assert found.shape == expected.shape == (SIZE, SIZE, 3)
    # The pictures are noise, of which JPEG keeps the means.
    np.testing.assert_allclose(found.mean((0, 1)), expected.mean((0, 1)), atol=2)


def test_without_data_or_with_a_damaged_image(devkit: Path, tmp_path: Path) -> None:
    (images,) = read_splits(devkit, ["test"])
    assert Thumbnails(images.image_id, "test", None)(0) is None
    shutil.copytree(devkit, tmp_path / "kit")
    (tmp_path / "kit" / "JPEGImages" / f"{images.image_id[0]}.jpg").write_bytes(b"")
    thumbnails = Thumbnails(images.image_id, "test", tmp_path / "kit")
    assert thumbnails(0) is None
    assert thumbnails(1) == "1"


def test_another_data_set(devkit: Path) -> None:
    with pytest.raises(DataError, match="expected the 2 images of 'test'"):
        Thumbnails(("a", "b"), "test", devkit)
