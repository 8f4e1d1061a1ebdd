"""Feed damaged files to the readers, by the million.

A reader may take an input or refuse it with a FishingError; anything else is a finding:
another exception, a crash, too much memory (RLIMIT_AS), or no answer in time. Inputs
are mutations of valid files, the same for the same seed:

    python tests/campaigns/fuzz.py --reader prototxt --count 1000000

A finding is kept in --keep, from where `--replay FILE` runs it alone. What once broke
lies in tests/reliability/corpus/ and is run by tests/reliability/test_fuzz.py.
"""

from __future__ import annotations

import argparse
import faulthandler
import mmap
import os
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from fishing.errors import FishingError
from hdf5_checksums import Block, repair
from readers import READERS, Reader

MEMORY = 2**31  # bytes that a reader may ask for, beyond those of its libraries
PATIENCE = 20  # seconds for one input
BATCH = 2000  # inputs of one process
_COUNTS = struct.Struct("qqq")  # inputs begun, taken, refused


@dataclass
class Outcome:
    """What became of the inputs of a campaign."""

    begun: int = 0
    taken: int = 0
    refused: int = 0
    findings: dict[str, int] | None = None


def mutations(reader: Reader, seed: int, start: int, stop: int) -> Iterator[bytes]:
    """Make inputs by their numbers; each is the same whatever came before it."""
    rng = random.Random()
    for number in range(start, stop):
        rng.seed(seed << 48 | number)
        original = rng.choice(reader.seeds)
        content = bytearray(original)
        blocks = reader.guarded(original)
        n_changes = 1 + int(rng.expovariate(0.5))
        if blocks and rng.random() < 0.8:
            for _ in range(n_changes):
                rng.choice(_REPAIRED)(rng, content, blocks)
            repair(content, original, blocks)
        else:
            kinds = _MEANINGS if reader.is_text and rng.random() < 0.5 else _MUTATIONS
            for _ in range(n_changes):
                rng.choice(kinds)(rng, content, reader)
        yield bytes(content)


def campaign(
    reader: Reader, count: int, seed: int, keep: Path, outcome: Outcome | None = None
) -> Outcome:
    """Run inputs up to `count`, in processes of their own that may die.

    An outcome is taken up where it was, and kept up to date.
    """
    outcome = outcome or Outcome(findings={})
    for original in reader.seeds:
        reader.guarded(original)  # takes a while: once for all processes
    start = outcome.begun
    while start < count:
        stop = min(start + BATCH, count)
        begun, death = _run_apart(reader, seed, start, stop, keep, outcome)
        if death:
            _note(outcome, keep, reader, death, seed, begun)
            stop = begun + 1
        start = outcome.begun = stop
        if sys.stderr.isatty():
            print(f"\r{reader.name}: {start} of {count} ", end="", file=sys.stderr)
    return outcome


def _run_apart(
    reader: Reader, seed: int, start: int, stop: int, keep: Path, outcome: Outcome
) -> tuple[int, str]:
    """Run a batch in a child; the last input begun, and what the child died of."""
    with tempfile.TemporaryFile(buffering=0) as findings, mmap.mmap(-1, 4096) as shared:
        _COUNTS.pack_into(shared, 0, start, 0, 0)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _child(reader, seed, start, stop, shared, findings)
        try:
            death = _wait(child, shared)
        except KeyboardInterrupt:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        begun, taken, refused = _COUNTS.unpack_from(shared)
        outcome.taken += taken
        outcome.refused += refused
        findings.seek(0)
        for line in findings.read().decode().splitlines():
            number, what = line.split(" ", 1)
            _note(outcome, keep, reader, what, seed, int(number))
    return begun, death


def replay(reader: Reader, data: bytes) -> str:
    """Run one input in a process of its own, and say what became of it."""
    with mmap.mmap(-1, 4096) as shared:
        child = os.fork()
        if child == 0:
            quiet()
            limit_memory()
            with reader.opened() as run:
                what = judge(run, data)
            text = {None: "taken", "": "refused"}.get(what, what)
            shared[: len(text.encode())] = text.encode()
            os._exit(0)
        death = _wait(child, shared)
        return death or shared[:].rstrip(b"\0").decode()


def _wait(child: int, shared: mmap.mmap) -> str:
    """Wait for a child as long as it gets on; what it died of, if it did."""
    seen, since = None, time.monotonic()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return "" if code == 0 else f"exit code {code}"
        if shared[:24] != seen:
            seen, since = shared[:24], time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"no answer in {PATIENCE} s"
        time.sleep(0.005)


def _child(
    reader: Reader, seed: int, start: int, stop: int, shared: mmap.mmap, findings: Any
) -> None:
    quiet()
    limit_memory()
    taken = refused = 0
    with reader.opened() as run:
        for number, data in enumerate(mutations(reader, seed, start, stop), start):
            _COUNTS.pack_into(shared, 0, number, taken, refused)
            what = judge(run, data)
            if what is None:
                taken += 1
            elif what == "":
                refused += 1
            else:
                findings.write(f"{number} {what}\n".encode())
        _COUNTS.pack_into(shared, 0, stop - 1, taken, refused)
    os._exit(0)


def judge(run: Callable[[bytes], None], data: bytes) -> str | None:
    """Run one input: None where it was taken, '' where refused, else the finding."""
    try:
        run(data)
    except FishingError as error:
        return "" if "\n" not in str(error) else f"a message of lines: {error!a}"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if f"{os.sep}fishing{os.sep}" in f.filename] or frames
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}"
        return f"{type(error).__name__} at {place}"
    return None


def _note(
    outcome: Outcome, keep: Path, reader: Reader, what: str, seed: int, number: int
) -> None:
    data = next(mutations(reader, seed, number, number + 1))
    name = f"seed-{seed}-input-{number}"
    note(outcome.findings, keep, reader, what, data, name)


def note(
    findings: dict[str, int] | None,
    keep: Path,
    reader: Reader,
    what: str,
    data: bytes,
    name: str,
) -> None:
    """Count a finding, and keep the first inputs of each kind."""
    assert findings is not None
    findings[what] = findings.get(what, 0) + 1
    if findings[what] <= 3:
        folder = keep / reader.name
        folder.mkdir(parents=True, exist_ok=True)
        kind = re.sub(r"[^\w.-]+", "-", what)[:80]
        (folder / f"{kind}-{name}").write_bytes(data)


def limit_memory() -> None:
    """Let this process ask for no more than `MEMORY` beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def quiet() -> None:
    """Keep the complaints of decoders off the terminal."""
    faulthandler.disable()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)


# --- mutations --------------------------------------------------------------------

_NUMBERS = [
    b"0", b"1", b"-1", b"3", b"127", b"255", b"65536", b"2147483647", b"2147483648",
    b"4294967296", b"9223372036854775807", b"18446744073709551616", b"1e999", b"nan",
    b"-inf", b"1e-320", b"0x7fffffff", b"0x" + b"f" * 300, b"9" * 400, b"0.1f", b"3.",
]  # fmt: skip
_BYTES = [0, 1, 2, 7, 8, 10, 13, 31, 32, 34, 39, 63, 64, 127, 128, 129, 254, 255]
_WORDS = [struct.pack(f"<{c}", n) for c, n in [
    ("I", 0), ("I", 1), ("I", 2**31 - 1), ("I", 2**31), ("I", 2**32 - 1), ("f", 1e38),
    ("I", 0x7FC00000), ("I", 0x7F800000), ("Q", 2**40), ("Q", 2**63), ("Q", 2**64 - 1),
    ("H", 2**16 - 1), ("H", 1), ("Q", 0), ("I", 2**24),
]]  # fmt: skip


def _stretch(rng: random.Random, content: bytearray) -> slice:
    start = rng.randrange(len(content) + 1)
    return slice(start, start + int(rng.expovariate(1 / 8)) + 1)


def _flip(rng: random.Random, content: bytearray, _: Reader) -> None:
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, content: bytearray, _: Reader) -> None:
    if content:
        content[rng.randrange(len(content))] = rng.choice(_BYTES)


def _word(rng: random.Random, content: bytearray, _: Reader) -> None:
    word = rng.choice(_WORDS)
    place = rng.randrange(len(content) + 1)
    content[place : place + len(word)] = word


def _insert(rng: random.Random, content: bytearray, _: Reader) -> None:
    place = rng.randrange(len(content) + 1)
    content[place:place] = rng.randbytes(rng.randint(1, 6))


def _delete(rng: random.Random, content: bytearray, _: Reader) -> None:
    del content[_stretch(rng, content)]


def _repeat(rng: random.Random, content: bytearray, _: Reader) -> None:
    stretch = _stretch(rng, content)
    content[stretch] = content[stretch] * rng.choice([2, 2, 3, 10, 1000])


def _splice(rng: random.Random, content: bytearray, reader: Reader) -> None:
    other = rng.choice(reader.seeds)
    start = rng.randrange(len(other) + 1)
    piece = other[start : start + int(rng.expovariate(1 / 40)) + 1]
    content[_stretch(rng, content)] = piece


def _token(rng: random.Random, content: bytearray, reader: Reader) -> None:
    if reader.tokens:
        place = rng.randrange(len(content) + 1)
        content[place:place] = rng.choice(reader.tokens)


def _number(rng: random.Random, content: bytearray, _: Reader) -> None:
    found = list(re.finditer(rb"[-\d.]+", bytes(content[:100_000])))
    if found:
        content[slice(*rng.choice(found).span())] = rng.choice(_NUMBERS)


def _word_swap(rng: random.Random, content: bytearray, reader: Reader) -> None:
    """Put one word of the text, quoted or not, in the place of another."""
    found = list(_NAMES.finditer(bytes(content[:100_000])))
    others = _NAMES.findall(rng.choice(reader.seeds))
    if found and others:
        content[slice(*rng.choice(found).span())] = rng.choice(others)


def _small_number(rng: random.Random, content: bytearray, _: Reader) -> None:
    found = list(re.finditer(rb"(?<= )-?[\d.]+", bytes(content[:100_000])))
    if found:
        number = rng.choice([0, 1, 2, 3, 4, 5, 7, 8, 16, -1, 1000, 65536, 2**31 - 1])
        content[slice(*rng.choice(found).span())] = b"%d" % number


def _cut(rng: random.Random, content: bytearray, _: Reader) -> None:
    del content[rng.randrange(len(content) + 1) :]


def _inside(rng: random.Random, blocks: list[Block], size: int) -> slice:
    """Choose a stretch of a guarded block, behind its signature."""
    block = rng.choice(blocks)
    start = rng.randrange(block.start + 4, block.stop)
    return slice(start, min(start + size, block.stop))


def _flip_inside(rng: random.Random, content: bytearray, blocks: list[Block]) -> None:
    content[_inside(rng, blocks, 1).start] ^= 1 << rng.randrange(8)


def _set_inside(rng: random.Random, content: bytearray, blocks: list[Block]) -> None:
    content[_inside(rng, blocks, 1).start] = rng.choice(_BYTES)


def _word_inside(rng: random.Random, content: bytearray, blocks: list[Block]) -> None:
    word = rng.choice(_WORDS)
    place = _inside(rng, blocks, len(word))
    content[place] = word[: place.stop - place.start]


def _copy_inside(rng: random.Random, content: bytearray, blocks: list[Block]) -> None:
    source = _inside(rng, blocks, rng.choice([1, 2, 4, 8, 8, 16, 24]))
    place = _inside(rng, blocks, source.stop - source.start)
    content[place] = content[source][: place.stop - place.start]


def _all_inside(rng: random.Random, content: bytearray, blocks: list[Block]) -> None:
    """Change a number wherever its block has it: a shape, and how far it may grow."""
    block = rng.choice(blocks)
    place = _inside(rng, [block], 8)
    old = bytes(content[place])
    new = rng.choice([*_WORDS, *(struct.pack("<Q", n) for n in range(1, 9))])
    new = new.ljust(len(old), b"\0")[: len(old)]
    inside = slice(block.start + 4, block.stop)
    content[inside] = content[inside].replace(old, new)


def _address_inside(
    rng: random.Random, content: bytearray, blocks: list[Block]
) -> None:
    """Let an address lead to another block, or to nowhere."""
    starts = [block.start for block in blocks]
    found = [
        place
        for start in starts
        if (place := content.find(start.to_bytes(8, "little"))) >= 0
    ]
    if found:
        place = rng.choice(found)
        other = rng.choice([*starts, len(content), len(content) - 8, 2**64 - 1])
        content[place : place + 8] = other.to_bytes(8, "little")


_NAMES = re.compile(rb'"[^"\n]*"|[A-Za-z_]+')
# Changes that leave a text well formed, so that what it means is tried too.
_MEANINGS = [_word_swap, _small_number, _small_number]
_MUTATIONS = [
    _flip, _flip, _set, _set, _word, _word, _insert, _delete, _repeat, _splice, _token,
    _token, _number, _number, _cut,
]  # fmt: skip
# Changes that leave the length as it is, so that checksums can be made right.
_REPAIRED = [
    _flip_inside, _set_inside, _word_inside, _copy_inside, _all_inside,
    _address_inside,
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reader", choices=READERS, required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--start", type=int, default=0, help="the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--replay", type=Path)
    arguments = parser.parse_args()
    reader = READERS[arguments.reader]()
    if arguments.replay:
        limit_memory()
        with reader.opened() as run:
            run(arguments.replay.read_bytes())
        return
    start = time.monotonic()
    found = Outcome(begun=arguments.start, findings={})
    # An interrupt ends it where it is; --start goes on from there.
    with suppress(KeyboardInterrupt):
        campaign(reader, arguments.count, arguments.seed, arguments.keep, found)
    assert found.findings is not None
    print(
        f"{reader.name}: inputs {arguments.start} to {found.begun} of seed "
        f"{arguments.seed} in {time.monotonic() - start:.0f} s; {found.taken} taken, "
        f"{found.refused} refused, {sum(found.findings.values())} findings of "
        f"{len(found.findings)} kinds"
    )
    for what, n in sorted(found.findings.items(), key=lambda item: -item[1]):
        print(f"  {n:>7} {what}")
    sys.exit(bool(found.findings))


if __name__ == "__main__":
    main()
