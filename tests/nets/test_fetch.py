"""Tests of `fishing.nets.fetch` with a misbehaving HTTP server on the loopback."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fishing.errors import NetError
from fishing.images import Preprocess
from fishing.nets import NetSpec, Weights, fetch, fetch_weights, weights_path

BODY = random.Random(0).randbytes(300_001)
WRONG = random.Random(1).randbytes(300_001)
SHA256 = hashlib.sha256(BODY).hexdigest()
HALF = 150_000


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's plan for the path."""

    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        with self.server.guard:
            plan = self.server.plans[self.path]
            turn = sum(path == self.path for path, _ in self.server.asked)
            self.server.asked.append((self.path, asked))
        plan(self, int(asked[len("bytes=") : -len("-")]) if asked else 0, turn)

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, data: bytes) -> None:
        self.server.sent += len(data)
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


Plan = Callable[[Handler, int, int], None]


@dataclass
class Server(ThreadingHTTPServer):
    plans: dict[str, Plan]
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        self.guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


# Plans: how the server answers a request for the bytes from `start` on.


def good(h: Handler, start: int, turn: int) -> None:
    if start == 0:
        h.head(200, Content_Length=len(BODY))
    else:
        rest = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        h.head(206, Content_Length=len(BODY) - start, Content_Range=rest)
    h.body(BODY[start:])


def breaks_once(h: Handler, start: int, turn: int) -> None:
    if turn > 0:
        return good(h, start, turn)
    h.head(200, Content_Length=len(BODY))
    h.body(BODY[:HALF])


def breaks_always(h: Handler, start: int, turn: int) -> None:
    rest = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
    length = len(BODY) - start
    h.head(206 if start else 200, Content_Length=length, Content_Range=rest)
    h.body(BODY[start : start + 1000])


def ends_early_without_length(h: Handler, start: int, turn: int) -> None:
    h.head(200)
    h.body(BODY if turn else BODY[:HALF])


def ignores_range(h: Handler, start: int, turn: int) -> None:
    good(h, 0, turn)


def wrong_range(h: Handler, start: int, turn: int) -> None:
    if start == 0:
        return good(h, start, turn)
    rest = f"bytes {start + 7}-{len(BODY) - 1}/{len(BODY)}"
    h.head(206, Content_Length=len(BODY) - start - 7, Content_Range=rest)
    h.body(BODY[start + 7 :])


def no_range_named(h: Handler, start: int, turn: int) -> None:
    if start == 0:
        return good(h, start, turn)
    h.head(206, Content_Length=len(BODY) - start)
    h.body(BODY[start:])


def refuses_range(h: Handler, start: int, turn: int) -> None:
    if start == 0:
        return good(h, start, turn)
    h.head(416, Content_Range=f"bytes */{len(BODY)}")


def busy_after_a_break(h: Handler, start: int, turn: int) -> None:
    if turn == 1:
        return h.head(503)
    breaks_once(h, start, turn)


def wrong(h: Handler, start: int, turn: int) -> None:
    h.head(200, Content_Length=len(WRONG))
    h.body(WRONG)


def wrong_size(h: Handler, start: int, turn: int) -> None:
    h.head(200, Content_Length=len(BODY) + 1)
    h.body(BODY + b"!")


def endless(h: Handler, start: int, turn: int) -> None:
    h.head(200)
    h.body(BODY + b"!")


def hangs_up(h: Handler, start: int, turn: int) -> None:
    h.close_connection = True


def missing(h: Handler, start: int, turn: int) -> None:
    h.head(404)


def moved(h: Handler, start: int, turn: int) -> None:
    h.head(302, Location=h.server.url("/good"), Content_Length=0)


def moved_round(h: Handler, start: int, turn: int) -> None:
    h.head(302, Location=h.path, Content_Length=0)


@pytest.fixture
def server() -> Iterator[Server]:
    plans = {
        "/" + plan.__name__: plan
        for plan in globals().copy().values()
        if callable(plan)
        and getattr(plan, "__annotations__", {}).keys()
        == {"h", "start", "turn", "return"}
    }
    with Server(plans) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NetSpec:
    monkeypatch.setenv("FISHING_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "PAUSE", 0.0)
    monkeypatch.setattr(fetch, "_CHUNK", 1000)
    folder = tmp_path / "net"
    folder.mkdir()
    return NetSpec(
        name="net",
        title="A net",
        folder=folder,
        model=folder / "deploy.prototxt",
        preprocess=Preprocess(8, 8),
        blobs={},
        weights=Weights("net.caffemodel", len(BODY), SHA256, (), ""),
    )


@pytest.fixture
def target(tmp_path: Path) -> Path:
    target = tmp_path / "home" / "weights" / SHA256[:16] / "net.caffemodel"
    target.parent.mkdir(parents=True)
    return target


@pytest.fixture
def part(target: Path) -> Path:
    return target.with_name("net.caffemodel.part")


def sourced(spec: NetSpec, *sources: str) -> NetSpec:
    return replace(spec, weights=replace(spec.weights, sources=sources))


def left_over(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} - {"net.caffemodel.lock"}


def test_a_fetch_brings_the_file_and_nothing_else(
    server: Server, spec: NetSpec, target: Path
) -> None:
    steps: list[tuple[str, int, int | None, str]] = []
    spec = sourced(spec, server.url("/good"))
    path = fetch_weights(spec, progress=lambda *step: steps.append(step))
    assert path == target == weights_path(spec)
    assert path.read_bytes() == BODY
    assert left_over(target) == {"net.caffemodel"}
    assert steps == sorted(steps)
    assert steps[0] == ("net.caffemodel", 0, len(BODY), "B")
    assert steps[-1] == ("net.caffemodel", len(BODY), len(BODY), "B")
    assert len(steps) > 3


def test_right_weights_are_not_fetched_again(
    server: Server, spec: NetSpec, target: Path
) -> None:
    target.write_bytes(BODY)
    fetch_weights(sourced(spec, server.url("/good")))
    fetch_weights(spec, source=server.url("/good"))
    assert server.asked == []


@pytest.mark.parametrize("found", [WRONG, b"short", b""])
def test_wrong_weights_in_the_cache_are_replaced(
    server: Server, spec: NetSpec, target: Path, found: bytes
) -> None:
    target.write_bytes(found)
    fetch_weights(sourced(spec, server.url("/good")))
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("known", [True, False], ids=["size", "no-size"])
def test_a_break_is_mended_within_the_run(
    server: Server, spec: NetSpec, target: Path, known: bool
) -> None:
    size = len(BODY) if known else None
    spec = replace(spec, weights=replace(spec.weights, size=size))
    fetch_weights(sourced(spec, server.url("/breaks_once")))
    assert target.read_bytes() == BODY
    assert server.asked == [
        ("/breaks_once", None),
        ("/breaks_once", f"bytes={HALF}-"),
    ]
    assert server.sent == len(BODY)


def test_an_early_end_shows_without_a_length(
    server: Server, spec: NetSpec, target: Path
) -> None:
    fetch_weights(sourced(spec, server.url("/ends_early_without_length")))
    assert target.read_bytes() == BODY
    assert len(server.asked) == 2


def test_a_server_error_after_a_break_is_mended(
    server: Server, spec: NetSpec, target: Path
) -> None:
    fetch_weights(sourced(spec, server.url("/busy_after_a_break")))
    assert target.read_bytes() == BODY
    assert len(server.asked) == 3


def test_the_next_run_asks_for_the_missing_bytes_only(
    server: Server, spec: NetSpec, target: Path, part: Path
) -> None:
    with pytest.raises(NetError, match=r"broke.*5000 bytes are kept"):
        fetch_weights(sourced(spec, server.url("/breaks_always")))
    assert len(server.asked) == fetch.TRIES == 5
    assert part.read_bytes() == BODY[:5000]
    assert not target.exists()
    server.asked.clear()
    server.sent = 0
    fetch_weights(sourced(spec, server.url("/good")))
    assert server.asked == [("/good", "bytes=5000-")]
    assert server.sent == len(BODY) - 5000
    assert target.read_bytes() == BODY
    assert left_over(target) == {"net.caffemodel"}


def test_the_next_source_goes_on_where_one_broke(
    server: Server, spec: NetSpec, target: Path
) -> None:
    fetch_weights(sourced(spec, server.url("/breaks_always"), server.url("/good")))
    assert server.asked[-1] == ("/good", "bytes=5000-")
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    "plan", ["ignores_range", "wrong_range", "no_range_named", "refuses_range"]
)
def test_a_server_that_cannot_resume_sends_all(
    server: Server, spec: NetSpec, target: Path, part: Path, plan: str
) -> None:
    part.write_bytes(BODY[:HALF])
    fetch_weights(sourced(spec, server.url("/" + plan)))
    assert target.read_bytes() == BODY
    assert server.asked[0][1] == f"bytes={HALF}-"
    assert left_over(target) == {"net.caffemodel"}


def test_a_whole_part_needs_no_request(
    server: Server, spec: NetSpec, target: Path, part: Path
) -> None:
    part.write_bytes(BODY)
    fetch_weights(sourced(spec, server.url("/good")))
    assert server.asked == []
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    "found", [WRONG, WRONG[:HALF], BODY + b"!"], ids=["wrong", "wrong-half", "long"]
)
def test_a_bad_part_does_not_spoil_a_good_source(
    server: Server, spec: NetSpec, target: Path, part: Path, found: bytes
) -> None:
    part.write_bytes(found)
    fetch_weights(sourced(spec, server.url("/good")))
    assert target.read_bytes() == BODY
    assert server.asked[-1] == ("/good", None)


@pytest.mark.parametrize("plan", ["missing", "wrong", "wrong_size", "endless"])
def test_a_useless_source_is_left_for_the_next(
    server: Server, spec: NetSpec, target: Path, plan: str
) -> None:
    fetch_weights(sourced(spec, server.url("/" + plan), server.url("/good")))
    assert target.read_bytes() == BODY


def test_a_dead_host_is_left_at_once(
    server: Server, spec: NetSpec, target: Path, part: Path
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        part.write_bytes(BODY[:HALF])
        fetch_weights(sourced(spec, dead, server.url("/good")))
        assert server.asked == [("/good", f"bytes={HALF}-")]
        with pytest.raises(NetError, match=r"the connection broke: .*refused"):
            fetch_weights(sourced(replaced(spec, b"other"), dead))


def test_a_host_that_hangs_up_is_asked_once(server: Server, spec: NetSpec) -> None:
    with pytest.raises(NetError, match=r"the connection broke: .*without response"):
        fetch_weights(sourced(spec, server.url("/hangs_up")))
    assert server.asked == [("/hangs_up", None)]


def test_more_bytes_than_expected_are_not_taken(
    server: Server, spec: NetSpec, target: Path
) -> None:
    with pytest.raises(NetError, match="expected 300001 bytes, found more"):
        fetch_weights(sourced(spec, server.url("/endless")))
    assert not target.exists()


def replaced(spec: NetSpec, data: bytes) -> NetSpec:
    digest = hashlib.sha256(data).hexdigest()
    return replace(spec, weights=replace(spec.weights, size=len(data), sha256=digest))


def test_the_error_lists_every_source_with_its_reason(
    server: Server, spec: NetSpec, target: Path
) -> None:
    urls = [server.url(path) for path in ("/missing", "/wrong", "/wrong_size")]
    with pytest.raises(NetError) as raised:
        fetch_weights(sourced(spec, *urls))
    message = str(raised.value)
    found = hashlib.sha256(WRONG).hexdigest()
    assert f"(1) {urls[0]}: found status 404" in message
    assert f"(2) {urls[1]}: expected SHA-256 {SHA256}, found {found}" in message
    assert f"(3) {urls[2]}: expected 300001 bytes, found 300002" in message
    assert "--from" in message
    assert "\n" not in message
    assert left_over(target) == set()


def test_a_file_of_another_length_is_not_downloaded(
    server: Server, spec: NetSpec, part: Path
) -> None:
    part.write_bytes(BODY[:HALF])
    with pytest.raises(NetError):
        fetch_weights(sourced(spec, server.url("/wrong_size")))
    assert part.read_bytes() == BODY[:HALF]


def test_a_redirect_is_followed(server: Server, spec: NetSpec, target: Path) -> None:
    fetch_weights(sourced(spec, server.url("/moved")))
    assert target.read_bytes() == BODY


def test_a_redirect_away_from_http_is_refused(
    server: Server, spec: NetSpec, target: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(BODY)
    server.plans["/away"] = lambda h, start, turn: h.head(
        302, Location=secret.as_uri(), Content_Length=0
    )
    for path in ("/away", "/moved_round"):
        with pytest.raises(NetError, match=r"expected an http\(s\) address"):
            fetch_weights(sourced(spec, server.url(path)))
    assert left_over(target) == set()


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_a_source_that_is_not_http_is_refused(
    spec: NetSpec, target: Path, tmp_path: Path, scheme: str
) -> None:
    (tmp_path / "source").write_bytes(BODY)
    with pytest.raises(NetError, match=r"expected an http\(s\) address"):
        fetch_weights(spec, source=f"{scheme}://{tmp_path}/source")
    assert left_over(target) == set()


def test_a_given_source_is_the_only_one(
    server: Server, spec: NetSpec, target: Path
) -> None:
    spec = sourced(spec, server.url("/good"))
    with pytest.raises(NetError, match="404"):
        fetch_weights(spec, source=server.url("/missing"))
    assert server.asked == [("/missing", None)]
    fetch_weights(spec, source=server.url("/ignores_range"))
    assert target.read_bytes() == BODY


def test_a_local_file_is_copied(
    spec: NetSpec, target: Path, part: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(BODY)
    part.write_bytes(BODY[:HALF])
    steps: list[tuple[str, int, int | None, str]] = []
    fetch_weights(spec, str(source), lambda *step: steps.append(step))
    assert target.read_bytes() == source.read_bytes() == BODY
    assert steps[-1] == ("net.caffemodel", len(BODY), len(BODY), "B")
    assert left_over(target) == {"net.caffemodel"}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(WRONG), "expected SHA-256"),
        (lambda path: path.write_bytes(b"short"), "expected 300001 bytes, found 5"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: None, "No such file"),
    ],
    ids=["wrong", "short", "folder", "missing"],
)
def test_a_wrong_local_file_is_refused(
    spec: NetSpec,
    target: Path,
    part: Path,
    tmp_path: Path,
    make: Callable[[Path], object],
    reason: str,
) -> None:
    make(tmp_path / "source")
    part.write_bytes(BODY[:HALF])
    with pytest.raises(NetError, match=reason):
        fetch_weights(spec, source=str(tmp_path / "source"))
    assert left_over(target) == {part.name}
    assert part.read_bytes() == BODY[:HALF]


def test_weights_beside_the_net_are_checked_not_fetched(
    server: Server, spec: NetSpec
) -> None:
    beside = spec.folder / "net.caffemodel"
    beside.write_bytes(BODY)
    assert fetch_weights(sourced(spec, server.url("/good"))) == beside
    beside.write_bytes(WRONG)
    with pytest.raises(NetError, match=r"expected SHA-256 .*remove it"):
        fetch_weights(sourced(spec, server.url("/good")))
    assert server.asked == []


def test_what_cannot_be_checked_is_not_fetched(server: Server, spec: NetSpec) -> None:
    spec = replace(spec, weights=replace(spec.weights, sha256=None))
    with pytest.raises(NetError, match=r"expected a sha256 in .*net\.toml"):
        fetch_weights(sourced(spec, server.url("/good")))
    assert server.asked == []


def test_a_net_without_sources_asks_for_one(spec: NetSpec) -> None:
    with pytest.raises(NetError, match="--from URL-or-path"):
        fetch_weights(spec)


def test_a_full_disk_is_said_to_be_full(
    server: Server, spec: NetSpec, target: Path, part: Path
) -> None:
    part.symlink_to("/dev/full")
    urls = [server.url("/good"), server.url("/moved")]
    with pytest.raises(NetError, match="No space left on device; make room"):
        fetch_weights(sourced(spec, *urls))
    # Another source would not help.
    assert {path for path, _ in server.asked} == {"/good"}
    assert not target.exists()


def test_a_cache_that_cannot_be_made_is_named(
    server: Server, spec: NetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FISHING_HOME", str(tmp_path / "file"))
    with pytest.raises(NetError, match=r"expected to write .*set FISHING_HOME"):
        fetch_weights(sourced(spec, server.url("/good")))


def test_two_fetches_at_once_are_one_download(
    server: Server, spec: NetSpec, target: Path
) -> None:
    first_is_in, may_go_on = threading.Event(), threading.Event()

    def waits(h: Handler, start: int, turn: int) -> None:
        first_is_in.set()
        may_go_on.wait(60)
        good(h, start, turn)

    server.plans["/waits"] = waits
    spec = sourced(spec, server.url("/waits"))
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch_weights(spec)))
        for _ in range(2)
    ]
    threads[0].start()
    assert first_is_in.wait(60)
    threads[1].start()
    may_go_on.set()
    for thread in threads:
        thread.join(60)
    assert paths == [target, target]
    assert target.read_bytes() == BODY
    assert server.asked == [("/waits", None)]


def test_an_address_that_no_host_can_have(spec: NetSpec) -> None:
    with pytest.raises(NetError, match="expected an http"):
        fetch_weights(spec, "http://a..b/")
