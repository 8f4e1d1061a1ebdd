"""From an image file to the input of a net, as Caffe prepares it.

In goes a path, out comes a (3, size, size) float32 array: BGR, 0-255, shortest side
resized to `size` with OpenCV's bilinear filter on 8-bit pixels, central crop, mean
subtracted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import ImageError
from fishing.images.decode import MAX_PIXELS, read_image

# OpenCV's own limit, for what Pillow does not read; it is taken when cv2 is imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
import cv2


@dataclass(frozen=True)
class Preprocess:
    """How images become inputs; two equal ones make equal inputs.

    Attributes
    ----------
    size : int
        Pixels: the shortest side after resizing, and both sides of the central crop.
    mean : tuple of float, length 3
        Subtracted from the blue, green and red channel (0-255).
    """

    size: int
    mean: tuple[float, float, float]

    def __call__(self, path: Path) -> NDArray[np.float32]:
        """Read one image file.

        Returns
        -------
        ndarray of float32, shape (3, size, size)
            Blue, green and red planes.

        Raises
        ------
        ImageError
            If the file is missing, empty, truncated, too large or no image.
        """
        return self.prepare(read_image(path))

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Prepare a decoded image: (height, width, 3), BGR, as `read_image` gives it.

        Raises
        ------
        ImageError
            If it is too narrow.
        """
        crop = resize_and_crop(image, self.size)
        data = np.empty((3, self.size, self.size), np.float32)
        # A plane at a time: five times as fast as all at once and then transposed.
        for k, mean in enumerate(self.mean):
            np.subtract(crop[:, :, k], np.float32(mean), out=data[k])
        return data

    def describe(self) -> dict[str, Any]:
        """Describe the settings, for the record of a features file."""
        return {
            "size": self.size,
            "mean": list(self.mean),
            "channels": "BGR",
            "resize": "shortest side, bilinear",
            "crop": "centre",
        }


def resize_and_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize the shortest side to `size` pixels and cut out the central square.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3)
    size : int

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)

    Raises
    ------
    ImageError
        If the image is so narrow that its resized long side is beyond reason.
    """
    height, width = image.shape[:2]
    scale = size / min(height, width)
    new_height, new_width = (max(size, round(n * scale)) for n in (height, width))
    if new_height * new_width > MAX_PIXELS:
        raise ImageError(
            f"too narrow: {width} x {height} pixels become {new_width} x {new_height}"
        )
    resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return resized[top : top + size, left : left + size].astype(np.uint8, copy=False)
