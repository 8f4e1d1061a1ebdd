"""Images are prepared as inputs of a net, by default in Caffe's way.

The image is resized, its centre is cut out, and each channel of its values of 0 to 255
becomes (value - mean) * scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fishing.errors import ImageError, NetError
from fishing.images.decode import MAX_PIXELS, read_image
from fishing.images.setting_kinds import numbers, shown

INTERPOLATIONS = ("bilinear", "bicubic")
#: Where the channels of a net's input stand in a decoded image.
CHANNELS = {"BGR": (0, 1, 2), "RGB": (2, 1, 0), "grey": (0,)}
#: How a length after resizing and the place of the crop are rounded: a side of n pixels
#: becomes n * new / old, and the crop begins at half of the pixels that are left.
ROUNDINGS: dict[str, tuple[Callable[[int, int, int], int], Callable[[float], int]]] = {
    "caffe": (lambda n, new, old: round(n * (new / old)), math.floor),
    "torchvision": (lambda n, new, old: int(new * n / old), round),  # half to even
    "transformers": (lambda n, new, old: int(new * n / old), math.floor),
}


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes an input; equal settings give equal inputs.

    Attributes
    ----------
    height, width : int
        Pixels of the central crop, which is the input of the net.
    resize : int or tuple of int, optional
        Pixels of the shortest side after resizing, or the height and the width, which
        may change the proportions. By default, the image becomes as small as the crop
        allows.
    interpolation : str
        ``bilinear`` or ``bicubic``.
    antialias : bool
        Whether the filter widens as the image shrinks. If so, Pillow resizes, as for
        nets of torchvision, timm and Hugging Face; if not, OpenCV does.
    channels : str
        ``BGR``, ``RGB`` or ``grey``: what the net takes, in this order.
    mean : tuple of float
        Values (0-255) to subtract, one for each channel.
    scale : tuple of float
        Factors of the differences, one for each channel.
    rounding : str
        The library whose rounding of lengths is used: ``caffe`` (the longer side to the
        nearest pixel, the crop's offset down), ``torchvision``, of which timm makes use
        (the side down, the offset to the nearest) or ``transformers`` (both down).

    Raises
    ------
    NetError
        If the settings do not fit together.

    Examples
    --------
    >>> Preprocess(28, 28, channels="grey", mean=(0.0,), scale=(1 / 256,)).shape
    (1, 28, 28)
    """

    height: int
    width: int
    resize: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    antialias: bool = False
    channels: str = "BGR"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    rounding: str = "caffe"

    def __post_init__(self) -> None:
        choices: dict[str, Collection[str]] = {
            "interpolation": INTERPOLATIONS,
            "channels": CHANNELS,
            "rounding": ROUNDINGS,
        }
        for name, known in choices.items():
            if (found := getattr(self, name)) not in known:
                raise NetError(
                    f"expected the {name} of an input to be one of {', '.join(known)}, "
                    f"found '{found}'"
                )
        n = len(CHANNELS[self.channels])
        for name, low, high in (("mean", 0, 255), ("scale", 1e-9, 1e9)):
            values, kind = [*map(float, getattr(self, name))], numbers(low, high, (n,))
            if not kind.fits(values):
                raise NetError(
                    f"expected `{name}` of {self.channels} to be {kind.words}, found "
                    f"{shown(values)}; correct it"
                )
        height, width = self._least_size()
        if height < self.height or width < self.width:
            raise NetError(
                f"expected `resize` to leave at least the {self.height} x {self.width} "
                f"pixels (height x width) of the input, found {self.resize}; correct it"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one input: channels, height, width."""
        return len(CHANNELS[self.channels]), self.height, self.width

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
        if self.channels == "grey":
            import cv2  # here, as in `read_image`

            # The grey of Caffe's OpenCV; Pillow's is within one level of it.
            grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
            image = grey.astype(np.uint8, copy=False)
        crop = self.resize_and_crop(image)
        data = np.empty(self.shape, np.float32)
        # Plane by plane, which is five times as fast as a transposition.
        for k, channel in enumerate(CHANNELS[self.channels]):
            np.subtract(crop[:, :, channel], np.float32(self.mean[k]), out=data[k])
            if self.scale[k] != 1:
                data[k] *= np.float32(self.scale[k])
        return data

    def resize_and_crop(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an image and cut out its centre.

        Parameters
        ----------
        image : ndarray of uint8, shape (height, width, any number of channels)

        Returns
        -------
        ndarray of uint8, shape (self.height, self.width, the same number)

        Raises
        ------
        ImageError
            If the image is so narrow that the resized one would have too many pixels.
        """
        height, width = self._resized_size(*image.shape[:2])
        if height * width > MAX_PIXELS:
            raise ImageError(
                f"too narrow: {image.shape[1]} x {image.shape[0]} pixels become "
                f"{width} x {height}"
            )
        resize = _resize_by_pillow if self.antialias else _resize_by_opencv
        resized = resize(image, height, width, self.interpolation)
        offset = ROUNDINGS[self.rounding][1]
        top, left = offset((height - self.height) / 2), offset((width - self.width) / 2)
        return resized[top : top + self.height, left : left + self.width]

    def describe(self) -> dict[str, Any]:
        """Describe the settings with the keys of `[input]` in net.toml.

        A features file and an exported net record this.

        Examples
        --------
        >>> found = Preprocess(224, 224, mean=(104.0, 117.0, 123.0)).describe()
        >>> found["size"], found["resize"], found["channels"]
        (224, 224, 'BGR')
        """
        is_square = self.height == self.width
        size = self.height if is_square else [self.height, self.width]
        resize: int | list[int] | None = self.height if is_square else None
        if self.resize is not None:
            resize = self.resize if isinstance(self.resize, int) else [*self.resize]
        return {
            "size": size,
            **({} if resize is None else {"resize": resize}),
            "interpolation": self.interpolation,
            "antialias": self.antialias,
            "rounding": self.rounding,
            "channels": self.channels,
            "mean": [*map(float, self.mean)],
            "scale": [*map(float, self.scale)],
        }

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Compute the height and the width after resizing."""
        if isinstance(self.resize, tuple):
            return self.resize
        if self.resize is not None:
            new, old = self.resize, min(height, width)
        else:
            pairs = ((self.height, height), (self.width, width))
            new, old = max(pairs, key=lambda pair: pair[0] / pair[1])
        length = ROUNDINGS[self.rounding][0]
        return (
            max(self.height, length(height, new, old)),
            max(self.width, length(width, new, old)),
        )

    def _least_size(self) -> tuple[int, int]:
        """Name the height and the width that every image has at least."""
        if self.resize is None:
            return self.height, self.width
        if isinstance(self.resize, int):
            return self.resize, self.resize
        return self.resize


def _resize_by_opencv(
    image: NDArray[np.uint8], height: int, width: int, interpolation: str
) -> NDArray[np.uint8]:
    import cv2

    flag = cv2.INTER_LINEAR if interpolation == "bilinear" else cv2.INTER_CUBIC
    resized = cv2.resize(image, (width, height), interpolation=flag)
    # OpenCV drops the axis of one channel.
    return resized.reshape(height, width, -1).astype(np.uint8, copy=False)


def _resize_by_pillow(
    image: NDArray[np.uint8], height: int, width: int, interpolation: str
) -> NDArray[np.uint8]:
    from PIL import Image  # here, as OpenCV in the other

    filters = Image.Resampling
    chosen = filters.BILINEAR if interpolation == "bilinear" else filters.BICUBIC
    is_grey = image.shape[2] == 1
    # The filter treats channels alike, whatever their order.
    made = Image.fromarray(image[..., 0] if is_grey else image)
    return np.asarray(made.resize((width, height), chosen)).reshape(height, width, -1)
