"""The names and limits of the format of features files; docs/format.md describes it."""

from __future__ import annotations

from fishing.nets.blobs import paired_blobs

FORMAT = "fishing-features"
FORMAT_VERSION = 3
#: The attribute with the checksum of a dataset or, on the file, of the outline.
SHA256 = "sha256"
#: The attributes of the file that hold a mapping, as JSON.
JSON_ATTRIBUTES = ("preprocess", "blobs")
#: The blobs that a split may have, in their order.
BLOBS = paired_blobs(8)
#: Pairs of blobs that must have the same width. A maxout makes x_k narrower than y_k.
SAME_WIDTH = (("forward/y8", "backward/y8"), ("forward/y8", "forward/x8"))
#: All datasets that a split may have.
DATASETS = (
    "image_id",
    "labels",
    *BLOBS,
    *(f"failed/{name}" for name in ("image_id", "reason", "index", "labels")),
)

MAX_ROWS = 2**24
MAX_WIDTH = 2**20
MAX_CHUNK = 2**25  # bytes of an unpacked chunk
