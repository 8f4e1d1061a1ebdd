"""What a user asked for is written as whole files."""

from __future__ import annotations

from pathlib import Path

from fishing.errors import DataError, one_line
from fishing.files import write_whole


def write_output(output: Path, content: str | bytes) -> Path:
    """Write a text or bytes; raise a DataError if that is not possible."""
    try:
        write_whole(output, content)
    except OSError as error:
        raise DataError(
            f"expected to write '{output}', found: {one_line(error)}; choose another "
            "--output"
        ) from None
    return output
