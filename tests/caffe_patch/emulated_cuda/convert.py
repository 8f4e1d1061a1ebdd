"""Translate CUDA sources into C++ that g++ compiles with the headers in this folder.

A launch of a kernel becomes a call of the emulator.
"""

from __future__ import annotations

import re
from pathlib import Path

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_FUNCTION = re.compile(r"__(?:global|device)__[^;{}()]*?(\w+)\s*\(")
_NAME = re.compile(r"\w+")
# kernel<Dtype><<<grid, block, shared, stream>>>(
_LAUNCH = re.compile(r"([\w#]+(?:\s*<[^<>;{}]*>)?)\s*<<<(.*?)>>>\s*\(", re.DOTALL)


def as_cpp(source: str) -> str:
    """Replace every launch.

    A kernel becomes a function of the values that it is launched with, so that its
    template arguments need not be named.
    """
    text = _COMMENT.sub("", source)
    together = _with_barriers(text)
    done = []
    while launch := _LAUNCH.search(text):
        end = _closing(text, launch.end())
        name = re.split(r"[\s<]", launch[1])[0]
        call = "emulate_together" if name in together else "emulate"
        values = text[launch.end() : end].strip()
        grid, block = _arguments(launch[2])[:2]
        done += [
            text[: launch.start()],
            f"{call}({grid}, {block}, [](auto... a) {{ {launch[1]}(a...); }}",
            f", {values})" if values else ")",
        ]
        text = text[end + 1 :]
    return "".join([*done, text])


def _with_barriers(text: str) -> set[str]:
    """List the functions that have a barrier, or call a function that has one."""
    bodies = []
    for function in _FUNCTION.finditer(text):
        start = text.find("{", _closing(text, function.end())) + 1
        bodies.append((function[1], text[start : _closing(text, start, "{}")]))
    found = {"__syncthreads"}
    for _ in bodies:
        found |= {name for name, body in bodies if found & set(_NAME.findall(body))}
    return found


def convert_tree(source: Path, target: Path) -> None:
    """Copy a tree. Files that do not change keep their time, and are not recompiled."""
    for path in source.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if b"<<<" in content and path.suffix in (".cu", ".hpp", ".cuh"):
                content = as_cpp(content.decode()).encode()
            write_changed(target / path.relative_to(source), content)


def write_changed(path: Path, content: bytes) -> None:
    """Write a file, unless it has this content already."""
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _closing(text: str, start: int, pair: str = "()") -> int:
    """Find the parenthesis that closes the one before `start`."""
    depth = 1
    for at in range(start, len(text)):
        depth += {pair[0]: 1, pair[1]: -1}.get(text[at], 0)
        if not depth:
            return at
    raise ValueError(f"expected a launch that ends, found {text[start : start + 80]}")


def _arguments(text: str) -> list[str]:
    """Split at the commas outside parentheses."""
    found, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            found.append("")
        else:
            found[-1] += letter
    return [argument.strip() for argument in found]
