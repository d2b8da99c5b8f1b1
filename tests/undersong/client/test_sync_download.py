"""A model's download survives cuts: it goes on where it was, and what appears has the registered digest."""

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from undersong.client import UndersongError, UnreachableError
from undersong.client.sync.download import download

BODY = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()


@dataclass
class Registry:
    """Serves one file as the registry does, and cuts the first answers after so many bytes."""

    url: str = ""
    body: bytes = BODY
    cuts: list[int] = field(default_factory=list)
    heeds_ranges: bool = True
    asked: list[str | None] = field(default_factory=list)
    sent: int = 0


@pytest.fixture
def registry() -> Iterator[Registry]:
    state = Registry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = self.headers.get("range")
            state.asked.append(wanted)
            assert self.headers.get("accept-encoding") == "identity"
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and state.heeds_ranges else 0  # type: ignore[index]
            if start and start >= len(state.body):
                self.send_response(416)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            rest = state.body[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("content-range", f"bytes {start}-{len(state.body) - 1}/{len(state.body)}")
            self.send_header("content-length", str(len(rest)))
            self.end_headers()
            part = rest[: state.cuts.pop(0)] if state.cuts else rest
            state.sent += len(part)
            self.wfile.write(part)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(registry: Registry, target: Path) -> None:
    with httpx.Client() as http:
        download(http, registry.url, "token", DIGEST, target)


def test_a_cut_download_goes_on_where_it_was(registry: Registry, tmp_path: Path) -> None:
    """However often it is cut, no byte is sent twice."""
    registry.cuts = [10_000] * 12
    fetch(registry, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == BODY
    assert registry.sent == len(BODY)
    assert registry.asked[0] is None
    assert all(registry.asked[1:])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_next_call_goes_on_too(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undersong.client.wire.ATTEMPTS", 1)
    registry.cuts = [100_000, 0]
    with pytest.raises(UnreachableError):
        fetch(registry, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    fetch(registry, tmp_path / "model")
    assert registry.asked[-1] == "bytes=100000-"
    assert (tmp_path / "model").read_bytes() == BODY


@pytest.mark.parametrize("left", [b"x" * 1000, BODY[:-1] + b"x", BODY + b"x", BODY])
def test_what_an_earlier_call_left_is_checked(registry: Registry, tmp_path: Path, left: bytes) -> None:
    """Damaged, too long or complete: the file that appears has the digest."""
    (tmp_path / f"model.{DIGEST[:16]}.partial").write_bytes(left)
    fetch(registry, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_server_without_ranges_begins_anew(registry: Registry, tmp_path: Path) -> None:
    registry.heeds_ranges, registry.cuts = False, [50_000]
    fetch(registry, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == BODY


def test_other_bytes_leave_nothing(registry: Registry, tmp_path: Path) -> None:
    registry.body = b"other" * 100
    with pytest.raises(UndersongError, match="digest"):
        fetch(registry, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_target_that_cannot_be_written_is_one_line(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UndersongError, match="cannot be stored"):
        fetch(registry, tmp_path / "no such folder" / "model")
