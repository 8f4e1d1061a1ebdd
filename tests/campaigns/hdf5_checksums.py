"""The checksums by which HDF5 guards its structures: find them, and make them right.

HDF5 refuses a damaged file whose checksums are wrong at once, so a campaign would learn
nothing about the code that reads the damage. Therefore the guarded blocks of a valid
file are found, and after a mutation their checksums are computed again.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_M = 2**32 - 1
_SUPERBLOCK = b"\x89HDF\r\n\x1a\n"
_SIGNATURES = re.compile(
    rb"\x89HDF\r\n\x1a\n|OHDR|OCHK|FRHP|FHIB|FSHD|FSSE|BTHD|BTIN|BTLF|FAHD|FADB|"
    rb"EAHD|EAIB|EASB|EADB|SMTB|SMLI"
)
_LONGEST = 4096
# Of a fractal heap: the checksum stands before the content and is zero while it counts.
_DIRECT = b"FHDB"
_DIRECT_HEADS, _DIRECT_SIZES = range(13, 22), [2**k for k in range(9, 17)]


@dataclass(frozen=True)
class Block:
    """A stretch of a file, and where in the file its checksum stands."""

    start: int
    stop: int
    checksum: int

    def sum(self, content: bytes | bytearray) -> bytes:
        """Compute the checksum of what stands in the block."""
        block = bytearray(content[self.start : self.stop])
        if self.checksum < self.stop:
            place = self.checksum - self.start
            block[place : place + 4] = b"\0\0\0\0"
        return struct.pack("<I", lookup3(block))


@functools.cache
def find_blocks(content: bytes) -> list[Block]:
    """Find the guarded blocks of a valid file, each by its signature."""
    starts = [match.start() for match in _SIGNATURES.finditer(content)]
    ends = [*starts[1:], len(content)]
    blocks = [
        _first_right(content, _simple(start, min(end, start + _LONGEST)))
        for start, end in zip(starts, ends, strict=True)
    ]
    blocks += [
        _first_right(content, _direct(match.start()))
        for match in re.finditer(_DIRECT, content)
    ]
    return [block for block in blocks if block is not None]


def repair(content: bytearray, original: bytes, blocks: list[Block]) -> None:
    """Make the checksums right where blocks differ from those of the original."""
    for block in blocks:
        part = slice(block.start, block.stop)
        if content[part] != original[part]:
            content[block.checksum : block.checksum + 4] = block.sum(content)


def _simple(start: int, end: int) -> Iterator[Block]:
    return (Block(start, stop, stop) for stop in range(start + 8, end - 3))


def _direct(start: int) -> Iterator[Block]:
    for size in _DIRECT_SIZES:
        for head in _DIRECT_HEADS:
            yield Block(start, start + size, start + head)


def _first_right(content: bytes, candidates: Iterator[Block]) -> Block | None:
    for block in candidates:
        if block.sum(content) == content[block.checksum : block.checksum + 4]:
            return block
    return None


def lookup3(data: bytes | bytearray) -> int:
    """Bob Jenkins' hash of 32 bits, as HDF5 takes it of its metadata."""
    length = len(data)
    a = b = c = 0xDEADBEEF + length & _M
    padded = bytes(data) + bytes(-length % 12)
    words = struct.unpack(f"<{len(padded) // 4}I", padded)
    for i in range(0, len(words) - 3, 3):
        a, b, c = a + words[i] & _M, b + words[i + 1] & _M, c + words[i + 2] & _M
        a, c = (a - c ^ _turn(c, 4)) & _M, c + b & _M
        b, a = (b - a ^ _turn(a, 6)) & _M, a + c & _M
        c, b = (c - b ^ _turn(b, 8)) & _M, b + a & _M
        a, c = (a - c ^ _turn(c, 16)) & _M, c + b & _M
        b, a = (b - a ^ _turn(a, 19)) & _M, a + c & _M
        c, b = (c - b ^ _turn(b, 4)) & _M, b + a & _M
    if words:
        a, b, c = a + words[-3] & _M, b + words[-2] & _M, c + words[-1] & _M
        c = (c ^ b) - _turn(b, 14) & _M
        a = (a ^ c) - _turn(c, 11) & _M
        b = (b ^ a) - _turn(a, 25) & _M
        c = (c ^ b) - _turn(b, 16) & _M
        a = (a ^ c) - _turn(c, 4) & _M
        b = (b ^ a) - _turn(a, 14) & _M
        c = (c ^ b) - _turn(b, 24) & _M
    return c


def _turn(value: int, by: int) -> int:
    return (value << by | value >> 32 - by) & _M
