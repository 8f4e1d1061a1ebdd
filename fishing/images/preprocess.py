"""Images are prepared as inputs of a net, by default in Caffe's way.

The shortest side is resized with OpenCV's bilinear filter on 8-bit pixels, the centre
is cut out, and the mean is subtracted from its BGR values of 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import ImageError
from fishing.images.decode import MAX_PIXELS, read_image


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes an input; equal settings give equal inputs.

    Attributes
    ----------
    height, width : int
        Pixels of the crop, which is the input of the net.
    resize : int, optional
        Pixels of the shortest side after resizing; by default as few as the crop needs.
    interpolation : str
        ``bilinear`` or ``bicubic``.
    antialias : bool
        Whether the filter grows with the reduction, as Pillow's does and OpenCV's does
        not.
    channels : str
        ``BGR``, ``RGB`` or ``grey``: what the net takes, in this order.
    mean : tuple of float
        Values (0-255) to subtract, one for each channel.
    scale : tuple of float
        Factors of the differences, one for each channel.
    """

    height: int
    width: int
    resize: int | None = None
    interpolation: str = "bilinear"
    antialias: bool = False
    channels: str = "BGR"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one input: channels, height, width."""
        return len(self.mean), self.height, self.width

    def __call__(self, path: Path) -> NDArray[np.float32]:
        """Read and prepare one image file.

        Returns
        -------
        ndarray of float32, shape (channels, height, width)

        Raises
        ------
        ImageError
            If the file is missing, empty, truncated, too large or not an image, or the
            image is too narrow.
        """
        return self.prepare(read_image(path))

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Prepare a decoded image.

        Parameters
        ----------
        image : ndarray of uint8, shape (height, width, 3)
            In BGR, as `read_image` returns it.

        Returns
        -------
        ndarray of float32, shape (channels, height, width)

        Raises
        ------
        ImageError
            If the image is too narrow.
        """
        crop = resize_and_crop(image, self.height)
        data = np.empty(self.shape, np.float32)
        # Plane by plane, which is five times as fast as a transposition.
        for k, mean in enumerate(self.mean):
            np.subtract(crop[:, :, k], np.float32(mean), out=data[k])
        return data

    def describe(self) -> dict[str, Any]:
        """Describe the settings as a features file records them."""
        return {
            "size": self.height,
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
        If the image is so narrow that the resized one would have too many pixels.
    """
    import cv2  # here, as in `read_image`

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
