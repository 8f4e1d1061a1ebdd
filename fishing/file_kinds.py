"""What a file is if it is not of the kind that was expected."""

from __future__ import annotations

import re
from pathlib import Path

_HEAD = 1024  # bytes
_SOLVER = rb"solver_mode|net|train_net|base_lr|test_iter|lr_policy"
_KINDS = {
    rb"version https?://(git-lfs|hawser)": "a Git LFS pointer in place of the file; "
    "run `git lfs pull` in its repository",
    rb"(\.\./)*(\.git/annex/|/annex/)objects/": "a git-annex pointer in place of the "
    "file; run `git annex get` in its repository",
    rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|\?xml)": "a web page in place of "
    "the file, such as one that asks for a login; download it again",
    rb"PK\x03\x04": "a ZIP archive, as PyTorch's weights are; unpack or convert it",
    rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf": "a compressed file; "
    "unpack it",
    rb".{257}ustar": "a tar archive; unpack it",
    rb"\x89HDF": "an HDF5 file",
    rb"\x80[\x02-\x05]": "a pickle of Python's; convert it",
    rb".{8}\{\"": "weights in safetensors' format; convert them",
    rb"(\s|#[^\n]*\n)*("
    + _SOLVER
    + rb")\s*:": "a solver, which trains a net; name the net's deploy.prototxt",
}


def found_instead(path: Path) -> str | None:
    """Say what a file is by its first bytes, and what to do about it.

    Parameters
    ----------
    path : Path
        A file that its reader has refused.

    Returns
    -------
    str or None
        None if the file cannot be read, or is of no kind that this function knows.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "net.caffemodel"
    >>> path.write_bytes(b"")
    0
    >>> found_instead(path)
    'an empty file'
    """
    try:
        if path.exists() and not path.is_file():
            return None  # a pipe would wait for ever
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return None
    return kind_of(head) if head else "an empty file"


def kind_of(head: bytes) -> str | None:
    """Say what a file is, as `found_instead` does, by its first bytes."""
    if not head.strip(b"\0"):
        return "a file that begins with nothing but zeros; copy it again"
    for pattern, words in _KINDS.items():
        if re.match(pattern, head[:_HEAD], re.DOTALL | re.IGNORECASE):
            return words
    return None
