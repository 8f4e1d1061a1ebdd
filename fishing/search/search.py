"""The images of a features file that are nearest to a photo or to one of themselves.

The kernels of some features compare the query with all images, in one pass over the
file and a few hundred rows at a time, or with those that an index names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fishing.errors import EvaluationError, StoreError
from fishing.extract import compute_blobs, project, recorded_settings
from fishing.kernels import UnitRows, choose_features, feature_blobs, main_feature
from fishing.nets import NetSpec
from fishing.progress import Progress, silent
from fishing.search.index import Index
from fishing.search.ranking import Neighbour, all_blocks, rank_images
from fishing.store import FeaturesFile, Rows


def search_photo(
    path: Path,
    photo: Path,
    features: Sequence[str] = (),
    k: int = 10,
    *,
    splits: Sequence[str] = (),
    index: Path | None = None,
    spec: NetSpec | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, list[Neighbour]]:
    """Find the images of a features file that are nearest to a photo.

    The photo goes through the net with the preprocessing, backend and temperature that
    the file was made with, and on a GPU with TF32 if the file was made with it.

    Parameters
    ----------
    path : Path
        A features file.
    photo : Path
        An image file.
    features : sequence of str
        Such as ``x7``, ``x6*x7`` or ``dW7``. The default is the file's deepest gradient
        but one, dW7 if the net has three inner products.
    k : int
        How many images to find.
    splits : sequence of str
        The splits to search; by default, all of them.
    index : Path, optional
        An index of `build_index`: the images that it names are ranked by the exact
        kernel, and the others are passed over. The default feature is that of the
        index, which is the only one.
    spec : NetSpec, optional
        The net of the file. By default, the one under models/ that the file names.
    device : str
        The device that runs the net on the photo: ``cpu`` or ``gpu:N``.
    progress : Progress
        Counts the images of each split.

    Returns
    -------
    dict of str to list of Neighbour
        For each feature, named as `fishing.kernels.choose_features` names it, the
        nearest image first. Equally near images keep the order of the file. An image
        that is in several splits is listed once.

    Raises
    ------
    StoreError
        If the file is missing, lacks a split, or was made with another net; or if the
        index is missing, damaged, or was made from other features.
    DataError
        If the photo cannot be read.
    EvaluationError
        If the file, the net or the index lacks a feature, or k is not positive.
    """
    with FeaturesFile(path) as file:
        search = _Search(file, features, k, splits, index)
        settings = recorded_settings(file, spec, device)
        computed = compute_blobs(settings, [photo], device=device)
        query = project(computed, file.projection)
        # A net.toml may name fewer blobs than the file.
        choose_features(search.features, query)
        return search(query, (), progress)


def search_id(
    path: Path,
    image_id: str,
    features: Sequence[str] = (),
    k: int = 10,
    *,
    splits: Sequence[str] = (),
    index: Path | None = None,
    progress: Progress = silent,
) -> dict[str, list[Neighbour]]:
    """Find the images of a features file that are nearest to one of its own.

    The image itself is left out. Parameters and Returns are those of `search_photo`.

    Raises
    ------
    StoreError
        If the file is missing, or lacks a split or the image; or if the index is
        missing, damaged, or was made from other features.
    EvaluationError
        If the file or the index lacks a feature, or k is not positive.
    """
    with FeaturesFile(path) as file:
        search = _Search(file, features, k, splits, index)
        for name, split in file.splits.items():
            if image_id in split.image_id:
                i = split.image_id.index(image_id)
                query = {blob: rows[i : i + 1] for blob, rows in split.blobs.items()}
                return search(query, (image_id,), progress)
            if image_id in split.failed_id:
                raise StoreError(
                    f"{path}: expected a row of '{image_id}', found that it could not "
                    f"be read when '{name}' was extracted; choose another image"
                )
    raise StoreError(
        f"{path}: expected an image '{image_id}', found none of that id in "
        f"{' '.join(file.splits)}; `fishing search --query` takes any image file"
    )


class _Search:
    """What to look for among which images: all of them, or those that an index names.

    Raises StoreError or EvaluationError if that does not fit.
    """

    def __init__(
        self,
        file: FeaturesFile,
        features: Sequence[str],
        k: int,
        splits: Sequence[str],
        index: Path | None,
    ) -> None:
        if k < 1:
            raise EvaluationError(f"expected k of 1 or more, found {k}")
        self._k = k
        self._splits = {name: file.split(name) for name in splits or file.splits}
        blobs = next(iter(file.splits.values())).blobs
        self.features = choose_features(features or [main_feature(blobs)], blobs)
        self._index: Index | None = None
        if index is not None:
            asked = " ".join(self.features) if features else None
            self._index = Index(index, file, asked)
            self.features = [self._index.feature]

    def __call__(
        self, query: Mapping[str, Rows], left_out: Sequence[str], progress: Progress
    ) -> dict[str, list[Neighbour]]:
        """Find the images that are nearest to a query, which may not be all zeros."""
        for blob in sorted(set().union(*map(feature_blobs, self.features))):
            UnitRows(query[blob], blob).checked()
        if self._index is None:
            blocks = all_blocks(self._splits)
        else:
            blocks = self._index.candidates(query, self._k, self._splits)
            progress = silent
        return rank_images(query, self.features, self._k, blocks, left_out, progress)


def format_neighbours(found: Mapping[str, Sequence[Neighbour]]) -> str:
    """Lay out what a search found, a table for each feature.

    Parameters
    ----------
    found : mapping of str to sequence of Neighbour
        By feature, as `fishing.search.search_photo` returns them.

    Returns
    -------
    str
        The tables, without a newline at their end.

    Examples
    --------
    >>> print(format_neighbours({"dW7": [Neighbour("000012", "test", 0.5, ("car",))]}))
    dW7  similarity  split  image   classes
      1      0.5000  test   000012  car
    """
    tables = []
    for feature, neighbours in found.items():
        rows = [(feature, "similarity", "split", "image", "classes")]
        for rank, n in enumerate(neighbours, start=1):
            cells = (f"{n.similarity:.4f}", n.split, n.image_id, " ".join(n.classes))
            rows.append((str(rank), *cells))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        tables.append("\n".join(_row(row, widths) for row in rows))
    return "\n\n".join(tables)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Pad cells to the widths of their columns; the first two are set to the right."""
    return "  ".join(
        f"{cell:>{width}}" if i < 2 else f"{cell:<{width}}"
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()
