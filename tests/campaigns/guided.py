"""Feed readers with inputs that are chosen by the code they reach.

`fuzz.py` changes valid files blindly; here libFuzzer sees which lines of this project
an input gets to, and goes on from those that get further. It needs atheris, which is no
dependency of this project and wants an environment of its own:

    python3 -m venv build/guided && build/guided/bin/pip install atheris
    PYTHONPATH=.:$(echo .venv/lib/python3*/site-packages) build/guided/bin/python \\
        tests/campaigns/guided.py --reader prototxt --seconds 300

Inputs that reach new code stay in --keep and are where the next run begins. Findings
are told of as in `fuzz.py`, and lie beside them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["fishing", "tomllib"]):
    import fuzz
    from readers import READERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reader", choices=READERS, required=True)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"))
    arguments = parser.parse_args()
    reader = READERS[arguments.reader]()
    corpus = arguments.keep / reader.name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(reader.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = corpus.with_name("words")
    words.write_text(
        'seed="\\x00"\n' + "".join(f'"{_escaped(token)}"\n' for token in reader.tokens)
    )
    end = time.monotonic() + arguments.seconds
    counts = dict.fromkeys(("taken", "refused", "findings"), 0)
    findings: dict[str, int] = {}
    with reader.opened() as run:

        def one_input(data: bytes) -> None:
            what = fuzz.judge(run, data)
            counts[{None: "taken", "": "refused"}.get(what, "findings")] += 1
            if what:
                name = f"guided-{sum(counts.values())}"
                fuzz.note(findings, arguments.keep, reader, what, data, name)
            if time.monotonic() > end:  # libFuzzer would leave no time for this
                texts = [
                    f"{n} {what}" for what, n in (*counts.items(), *findings.items())
                ]
                print(
                    f"{reader.name}: {sum(counts.values())} inputs; {', '.join(texts)}"
                )
                sys.stdout.flush()
                os._exit(bool(findings))

        options = [
            f"-timeout={fuzz.PATIENCE}",
            f"-rss_limit_mb={fuzz.MEMORY // 2**20}",
            f"-artifact_prefix={corpus.parent}/",
            f"-dict={words}",
            "-max_len=4096",
            "-verbosity=0",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], one_input)
        atheris.Fuzz()


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    main()
