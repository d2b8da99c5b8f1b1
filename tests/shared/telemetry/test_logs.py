"""No secret and no payload ever appears in a log line, however it got there."""

import io
import json
import logging
from collections.abc import Iterator

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from undersong.shared.telemetry.logs import REDACTED, configure_logging, scrub
from undersong.shared.telemetry.traces import continue_trace
from undersong.shared.web.access import new_token

TOKEN = new_token()


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    before = structlog.get_config()
    configure_logging("test", "INFO", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)  # the defaults would draw a box around each variable of every later traceback


def only(stream: io.StringIO) -> dict[str, object]:
    (line,) = stream.getvalue().splitlines()
    document: dict[str, object] = json.loads(line)
    return document


def test_a_line_says_what_when_and_who(lines: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(round_id="rnd_1"), continue_trace(None) as trace:
        structlog.get_logger().info("round.closed", accepted=3)
    line = only(lines)
    assert (line["event"], line["level"], line["service"]) == ("round.closed", "info", "test")
    assert (line["round_id"], line["accepted"], line["trace_id"]) == ("rnd_1", 3, trace[3:35])
    assert str(line["ts"]).endswith("Z")


@pytest.mark.parametrize(
    "value",
    [
        SecretStr("hush-hush"),
        b"hush-hush",
        bytearray(b"hush-hush"),
        memoryview(b"hush-hush"),
        {"lease_token": "hush-hush"},
        {"deep": [{"password": "hush-hush"}]},
        [SecretStr("hush-hush")],
        {"a": {"b": (b"hush-hush",)}},
    ],
)
def test_secrets_refuse_by_type_and_name(lines: io.StringIO, value: object) -> None:
    structlog.get_logger().info("x.y", value=value)
    assert "hush" not in lines.getvalue()
    assert "104, 117" not in lines.getvalue()


def test_arrays_show_their_shape_only(lines: io.StringIO) -> None:
    structlog.get_logger().info("x.y", update=np.full(4, 42.5, dtype=np.float32))
    assert only(lines)["update"] == "[array (4,) float32]"


@pytest.mark.parametrize("name", ["token", "lease_token", "password", "client_secret", "private_key", "Authorization"])
def test_secret_names(lines: io.StringIO, name: str) -> None:
    structlog.get_logger().info("x.y", **{name: "hush-hush"})
    assert only(lines)[name] == REDACTED


def test_ids_of_tokens_are_no_secrets(lines: io.StringIO) -> None:
    structlog.get_logger().info("x.y", token_id="tok_1")
    assert only(lines)["token_id"] == "tok_1"


def test_our_tokens_are_found_anywhere(lines: io.StringIO) -> None:
    log = structlog.get_logger()
    log.info(" ".join(["oops", TOKEN]), note=f"a {TOKEN} b", nested={"x": [TOKEN]})
    logging.getLogger("library").warning("sent %s", TOKEN)
    try:
        raise ValueError(TOKEN)  # noqa: TRY301
    except ValueError:
        log.exception("x.failed")
        logging.getLogger("library").exception("failed")
    assert TOKEN not in lines.getvalue()
    assert len(lines.getvalue().splitlines()) == 4


def test_passwords_in_addresses(lines: io.StringIO) -> None:
    structlog.get_logger().info("x.y", url="postgresql+psycopg://user:hush-hush@db:5432/x")
    assert only(lines)["url"] == f"postgresql+psycopg://user:{REDACTED}@db:5432/x"


@given(st.text(max_size=50), st.text(max_size=50))
def test_scrub_finds_tokens_between_any_words(before: str, after: str) -> None:
    assert TOKEN not in scrub(f"{before} {TOKEN} {after}")


def test_other_peoples_lines_are_json_too(lines: io.StringIO) -> None:
    logging.getLogger("library").warning("a %s", "b", extra={"password": "hush-hush"})
    line = only(lines)
    assert line["event"] == "a b"
    assert "hush" not in lines.getvalue()
