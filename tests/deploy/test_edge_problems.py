"""What the edge itself refuses is a problem document, as what the services refuse is."""

import json
import re
import shutil
import socket
import subprocess
import time
from http.client import HTTPResponse
from pathlib import Path

import pytest

from tests.pace import Deadline
from undersong.shared.web.problems import Problem

NGINX = Path(__file__).parents[2] / "deploy" / "nginx"
TEXT = (NGINX / "services" / "problems.conf").read_text()
PAGES = {status: (said, place) for status, said, place in re.findall(r"error_page (\d+) (?:=(\d+) )?(\S+);", TEXT)}
ANSWERS = dict(re.findall(r"location (?:= )?(\S+) \{[^}]*return \d+ '([^']*)';", TEXT))
REPEATED = "".join(re.findall(r"map \"[^\"]*\" \$repeated_\w+ \{[^}]*\}", (NGINX / "nginx.conf").read_text()))
"""The maps that find repeated header fields."""
SINGLE = ("Content-Encoding", "Content-Type", "Idempotency-Key", "Undersong-Certificate")
DICTIONARIES = {"Content-Digest": "sha-256=:AA==:", "Signature": "undersong=:AA==:", "Signature-Input": "undersong=()"}
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def _wait(port: int) -> None:
    give_up_at = Deadline(30)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=30).close()
        except ConnectionRefusedError:
            assert not give_up_at.over(), "nginx does not listen"
            time.sleep(0.05)
        else:
            return


def _ask(port: int, request: bytes) -> Problem:
    """The problem document that answers these bytes; its status is the answer's."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        raw.sendall(request)
        answer = HTTPResponse(raw)
        answer.begin()
        assert answer.headers["content-type"] == "application/problem+json"
        found = Problem.model_validate_json(answer.read())
    assert found.status == answer.status
    return found


@pytest.mark.parametrize("status", ["400", "404", "413", "414", "429", "460", "494", "497", "502", "503", "504"])
def test_an_answer_of_the_edge_is_a_problem_document(status: str) -> None:
    said, place = PAGES[status]
    document = Problem.model_validate(json.loads(ANSWERS[place]))
    assert document.type.startswith("urn:undersong:problem:")
    assert (document.status, document.request_id) == (int(said or status), "$request_id")


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx; `make e2e` asks the edge itself")
def test_nginx_gives_them(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (tmp_path / "nginx.conf").write_text(
        f"""daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}
        http {{
          access_log off; {REPEATED}
          {"".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in TEMPORARY)}
          server {{ listen 127.0.0.1:{port}; include {NGINX}/services/problems.conf; location / {{ return 200 ok; }} }}
        }}"""
    )
    command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as nginx:
        try:
            _wait(port)
            assert _ask(port, b"GARBAGE\x01 x\r\n\r\n").status == 400
            assert _ask(port, b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n").status == 414
            assert _ask(port, b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"a" * 40_000 + b"\r\n\r\n").status == 431
            _check_repeats(port)
            assert _ask(port, b"GET /.edge/problem-400 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").status == 404
        finally:
            nginx.terminate()


def _check_repeats(port: int) -> None:
    """A field that may come once and comes twice is refused; what a client sends in one line is not."""
    twice = [f"{name}: a\r\n{name.lower()}: b\r\n" for name in SINGLE]
    twice += [f"{name}: {value}\r\n{name}: {value}\r\n" for name, value in DICTIONARIES.items()]
    twice += [f"{name}: {value}, {value}\r\n" for name, value in DICTIONARIES.items()]
    for lines in twice:
        found = _ask(port, f"GET / HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\n\r\n".encode())
        assert (found.status, found.type) == (400, "urn:undersong:problem:header-repeated"), lines
    for name in ("Authorization", "Content-Length", "Host"):  # nginx's own refusal
        lines = f"{name}: 1\r\n{name}: 1\r\nContent-Type: a\r\nContent-Type: b\r\n"
        assert _ask(port, f"GET / HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode()).status == 400
    once = "".join(f"{name}: a\r\n" for name in SINGLE) + "".join(f"{n}: {v}\r\n" for n, v in DICTIONARIES.items())
    once += "Accept: a\r\nAccept: b\r\nVia: 1.1 a\r\nVia: 1.1 b\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nHost: x\r\n{once}Connection: close\r\n\r\n".encode())
        assert raw.recv(1024).startswith(b"HTTP/1.1 200")


def test_every_server_has_them() -> None:
    assert "include /etc/nginx/services/problems.conf;" in (NGINX / "services" / "common.conf").read_text()
    names = re.findall(r"include /etc/nginx/services/(\w+)\.conf;", (NGINX / "servers.conf").read_text())
    assert len(names) == 5
    for name in names:
        assert "include /etc/nginx/services/common.conf;" in (NGINX / "services" / f"{name}.conf").read_text()


def test_whoever_must_wait_is_told_how_long() -> None:
    (waits,) = re.findall(
        r'map "\$upstream_http_content_type\|\$status" \$own_retry_after \{(.*)\}', (NGINX / "nginx.conf").read_text()
    )
    assert {status for status in PAGES if f'"|{status}"' in waits} == {"429", "502", "503", "504"}
