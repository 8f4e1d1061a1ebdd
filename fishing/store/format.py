"""The names and limits of the format of features files; docs/format.md describes it."""

from __future__ import annotations

from fishing.nets.blobs import paired_blobs

FORMAT = "fishing-features"
FORMAT_VERSION = 3
#: The attribute with the checksum of a dataset or, on the file, of the outline.
SHA256 = "sha256"
#: The attributes of the file that hold a mapping, as JSON.
JSON_ATTRIBUTES = ("preprocess", "blobs", "projection")
#: The blobs that a split may have, in their order.
BLOBS = paired_blobs(8)
#: Pairs of blobs that must have the same width. A maxout makes x_k narrower than y_k.
SAME_WIDTH = (("forward/y8", "backward/y8"), ("forward/y8", "forward/x8"))
#: The group with the bases of a compressed file; no split of it may have this name.
PROJECTION = "projection"
#: How the values of a blob are stored; int4 puts two values into a byte.
DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "|i1", "int4": "|u1"}
#: All datasets that a split may have.
DATASETS = (
    "image_id",
    "labels",
    *BLOBS,
    *(f"failed/{name}" for name in ("image_id", "reason", "index", "labels")),
)

MAX_ROWS = 2**24
MAX_WIDTH = 2**20
MAX_DIMENSIONS = 1024  # of a compressed blob: its scales are one attribute
MAX_CHUNK = 2**25  # bytes of an unpacked chunk
