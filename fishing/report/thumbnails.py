"""Small pictures of images, as data URLs that a page holds within itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import cv2

from fishing.errors import DataError, ImageError
from fishing.images import Preprocess, read_image, read_splits

SIZE = 104  # pixels, both sides
_SQUARE = Preprocess(SIZE, SIZE)
_QUALITY = 80


class Thumbnails:
    """The pictures that a page shows; each is made once, when it is asked for.

    Without a data set there are none. Raises a DataError if the data set is missing or
    has another list of images. `name` is the name of the data set, or empty, and
    `sources` has the data URLs of the pictures made so far.
    """

    def __init__(self, image_id: Sequence[str], split: str, data: Path | None) -> None:
        self.name = ""
        self.sources: dict[str, str] = {}
        self._paths: tuple[Path, ...] = ()
        if data is not None:
            (images,) = read_splits(data, [split])
            if images.image_id != tuple(image_id):
                raise DataError(
                    f"expected the {len(image_id)} images of '{split}' that were "
                    f"evaluated in '{data}', found another list; name their data set "
                    "with --data"
                )
            self.name, self._paths = data.resolve().name, images.path

    def __call__(self, image: int) -> str | None:
        """Return the key in `sources` of an image, given its place in the list.

        The picture is the square that the net sees; None if there is no picture.
        """
        if not self._paths:
            return None
        key = str(image)
        if key not in self.sources:
            try:
                crop = _SQUARE.resize_and_crop(read_image(self._paths[image]))
            except ImageError:
                return None
            _, jpeg = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
            text = base64.b64encode(jpeg.tobytes()).decode()
            self.sources[key] = f"data:image/jpeg;base64,{text}"
        return key
