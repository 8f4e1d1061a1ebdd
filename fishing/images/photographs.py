"""Twenty photographs: a small multi-label data set in the layout of a VOC devkit.

Images of 96 x 96 pixels and their label files are made offline from photographs and
micrographs that the packages scikit-image and scikit-learn contain. Each photograph is
a class. An image is a patch of one photograph, or a 2 x 2 collage of patches of two or
three, with random scale, mirroring and brightness. The patches of trainval come from
the left halves of the photographs, those of test from the right halves, and a patch is
cropped before it is resized, so no pixel of a photograph contributes to both splits.

These are the sources and licences that the documentation of the two packages states.
From scikit-image: astronaut and hubble_deep_field (NASA), rocket (SpaceX), clock_motion
(Stefan van der Walt) and text (Wikipedia) are in the public domain; brick and gravel
(CC0Textures), camera (Lav Varshney), chelsea (Stefan van der Walt), coffee (Rachel
Michetti), grass (linolafett) and retina (Mikael Häggström) are CC0; coins (Brooklyn
Museum) and ihc (Center for Microscopy and Molecular Imaging) have no known copyright
restrictions; motorcycle_left is from the Middlebury 2014 stereo benchmark (Scharstein
et al.); color, moon and page have no terms of their own in a package that is under
BSD-3-Clause. From scikit-learn: china (danielbuechele) and flower (vultilion) are
CC BY 2.0.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fishing.errors import DataError, needs_extra, printable
from fishing.files import read_at_most

Pixels = NDArray[np.uint8]

SIZE = 96  # pixels, both sides of an image
# The name of a class is that of its file.
_FILES = {
    file.partition(".")[0]: file
    for file in (
        *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "china.jpg"),
        *("clock_motion.png", "coffee.png", "coins.png", "color.png", "flower.jpg"),
        *("grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png"),
        *("motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png"),
    )
}
CLASSES = tuple(_FILES)
_SCIKIT_LEARN = ("china", "flower")
_FOLDERS = {
    "scikit-image": ("skimage", "data"),
    "scikit-learn": ("sklearn", "datasets/images"),
}
_RECORD = "photographs.json"
_MAX_RECORD_BYTES = 2**16
_VERSION = 1
_SINGLE_SHARE = 0.5  # of images that are one patch, not a collage
_SCALES = (0.3, 1.0)  # side of a patch, in sides of the largest square of the half
_BRIGHTNESS = (0.7, 1.3)
_JPEG_QUALITY = 95


def write_photographs(
    folder: Path, n_trainval: int = 600, n_test: int = 600, seed: int = 0
) -> Path:
    """Make the data set unless the same one exists already.

    The choices (classes, patches, scale, brightness) depend on the seed and the split
    alone, so the first n images of a split do not depend on its length. The bytes
    of the images are the same with the same versions of OpenCV, Pillow and NumPy.

    Parameters
    ----------
    folder : Path
        The folder to make, which appears under this name once it is complete.
    n_trainval, n_test : int
        Numbers of images.
    seed : int
        Not negative.

    Returns
    -------
    Path
        The folder. It has the layout of a VOC devkit, with the splits trainval and
        test and labels of -1 and 1.

    Raises
    ------
    DataError
        If a number is out of range, a photograph is missing, or the folder has other
        contents or cannot be written.
    DependencyError
        If scikit-image is not installed.
    """
    for name, value, least in (
        ("n_trainval", n_trainval, 1),
        ("n_test", n_test, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise DataError(f"expected {name} of {least} or more, found {value}")
    photographs, sources_sha256 = _load()
    record = {
        "format": "fishing-photographs",
        "version": _VERSION,
        "seed": seed,
        "n_trainval": n_trainval,
        "n_test": n_test,
        "size": SIZE,
        "sources_sha256": sources_sha256,
    }
    if _is_there(folder, record):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", dir=folder.parent
        ) as temporary:
            complete = Path(temporary) / folder.name
            (complete / "JPEGImages").mkdir(parents=True)
            (complete / "ImageSets" / "Main").mkdir(parents=True)
            _write_split(complete, "trainval", 1, n_trainval, seed, photographs)
            _write_split(complete, "test", 1 + n_trainval, n_test, seed, photographs)
            (complete / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
            os.rename(complete, folder)
    except OSError as error:
        # Another process may have put the same data set there in the meantime.
        if not _is_there(folder, record):
            raise DataError(
                f"expected to write {folder}, found: {error.strerror}; make room or "
                "name another folder"
            ) from error
    return folder


def _is_there(folder: Path, record: dict[str, Any]) -> bool:
    """Tell whether the folder holds the data set of this record; refuse any other."""
    n_expected = sum(record[f"n_{split}"] for split in ("trainval", "test"))
    try:
        found = json.loads(read_at_most(folder / _RECORD, _MAX_RECORD_BYTES))
        n_images = sum(1 for _ in (folder / "JPEGImages").iterdir())
    except (OSError, ValueError, RecursionError):
        found, n_images = None, 0
    if found == record and n_images == n_expected:
        return True
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(
            printable(
                f"expected nothing at {folder}, or the data set {record}, found "
                f"{'something else' if found is None else str(found)[:300]}; remove it "
                "or name another folder"
            )
        )
    return False


def _load() -> tuple[dict[str, Pixels], str]:
    """Read the photographs, in BGR, and compute the SHA-256 over their files.

    The files are read from the packages' own folders, because scikit-image's functions
    would download a file that they do not find.
    """
    photographs, digest = {}, hashlib.sha256()
    for name, file in _FILES.items():
        package = "scikit-learn" if name in _SCIKIT_LEARN else "scikit-image"
        try:
            data = (_folder(package) / file).read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                rgb = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise DataError(
                f"expected the photograph {file} of {package}, found {error}; install "
                f"{package} again"
            ) from error
        photographs[name] = np.ascontiguousarray(rgb[:, :, ::-1])
        digest.update(data)
    return photographs, digest.hexdigest()


def _folder(package: str) -> Path:
    """Find the photographs of an installed package without importing it."""
    module, folder = _FOLDERS[package]
    with needs_extra("demo"):
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(name=module)
        return Path(spec.origin).parent / folder


def _write_split(
    folder: Path,
    split: str,
    first_id: int,
    n: int,
    seed: int,
    photographs: dict[str, Pixels],
) -> None:
    """Write the images `first_id` to `first_id + n - 1` and the split's label files."""
    import cv2

    right = split == "test"
    rng = np.random.default_rng([seed, int(right)])
    halves = [_half(photographs[name], right) for name in CLASSES]
    ids = [f"{first_id + i:06d}" for i in range(n)]
    labels = np.full((n, len(CLASSES)), -1)
    for i, image_id in enumerate(ids):
        if i % len(CLASSES) == 0:
            order = rng.permutation(len(CLASSES))
        # Because the classes take turns, even a small split has images of each.
        chosen = _choose(rng, int(order[i % len(CLASSES)]))
        labels[i, chosen] = 1
        image = _compose(rng, [halves[c] for c in chosen])
        _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        (folder / "JPEGImages" / f"{image_id}.jpg").write_bytes(jpeg.tobytes())
    main = folder / "ImageSets" / "Main"
    (main / f"{split}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
    for c, name in enumerate(CLASSES):
        lines = [
            f"{i} {label:2d}\n" for i, label in zip(ids, labels[:, c], strict=True)
        ]
        (main / f"{name}_{split}.txt").write_text("".join(lines))


def _half(photograph: Pixels, right: bool) -> Pixels:
    """Cut out one half; the middle column of an odd width belongs to neither."""
    width = photograph.shape[1]
    return photograph[:, width - width // 2 :] if right else photograph[:, : width // 2]


def _choose(rng: np.random.Generator, first: int) -> list[int]:
    """Choose the classes of one image: `first`, and up to two others."""
    if rng.random() < _SINGLE_SHARE:
        return [first]
    others = [c for c in range(len(CLASSES)) if c != first]
    more = rng.choice(others, size=rng.integers(1, 3), replace=False)
    return [first, *more.tolist()]


def _compose(rng: np.random.Generator, halves: list[Pixels]) -> Pixels:
    """Make one image, which is a patch, or a collage of four with all the halves."""
    if len(halves) == 1:
        return _patch(rng, halves[0], SIZE)
    again = rng.integers(len(halves), size=4 - len(halves)).tolist()
    cells = rng.permutation([*range(len(halves)), *again])
    a, b, c, d = (_patch(rng, halves[cell], SIZE // 2) for cell in cells)
    return np.vstack([np.hstack([a, b]), np.hstack([c, d])])


def _patch(rng: np.random.Generator, half: Pixels, size: int) -> Pixels:
    """Cut a random square out of a half and resize it to `size` pixels."""
    import cv2

    height, width = half.shape[:2]
    side = max(1, round(min(height, width) * rng.uniform(*_SCALES)))
    y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
    patch: NDArray[Any] = half[y : y + side, x : x + side]
    if rng.random() < 0.5:
        patch = cv2.flip(patch, 1)
    # Area averaging avoids aliasing in a shrunk patch, but cannot enlarge one.
    how = cv2.INTER_AREA if side >= size else cv2.INTER_LINEAR
    resized = cv2.resize(patch, (size, size), interpolation=how)
    brighter = resized.astype(np.float64) * rng.uniform(*_BRIGHTNESS)
    return np.clip(np.rint(brighter), 0, 255).astype(np.uint8)
