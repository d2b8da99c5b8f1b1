"""Tokens from a file; without one, this machine alone."""

from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from tests.services.inference.conftest import Ask
from undersong.services.inference.access import FileTokens, TokensUnusable
from undersong.services.inference.settings import InferenceSettings

ONE, TWO = "a" * 32, "b" * 40
ROWS = {"rows": [{"a": 1, "b": 1, "c": "x"}]}


async def test_a_token_of_the_file_is_needed(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# of the ward\n{ONE}\n\n{TWO}\n")
    async with ask(token_file=file, host="0.0.0.0") as client:
        for path in ("/v1/model", "/v1/drift"):
            assert (await client.get(path)).status_code == 401
        for said in (
            "",
            "Bearer",
            "Bearer c",
            f"Bearer {ONE}x",
            f"Basic {ONE}",
            "Bearer " + "é" * 20,
            "Bearer " + "a" * 9999,
        ):
            headers = httpx.Headers({"authorization": said}, encoding="utf-8")
            answer = await client.post("/v1/predictions", json=ROWS, headers=headers)
            assert answer.status_code == 401, said
            assert answer.headers["www-authenticate"] == "Bearer"
        for token in (ONE, TWO):
            headers = httpx.Headers({"authorization": f"Bearer {token}", "host": "model.example"})
            assert (await client.post("/v1/predictions", json=ROWS, headers=headers)).status_code == 200
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("host", ["model.example", "127.0.0.1.evil.example", "evil@127.0.0.1.example", "10.0.0.1", ""])
async def test_without_tokens_other_names_of_this_machine_are_refused(ask: Ask, host: str) -> None:
    async with ask() as client:
        assert (await client.get("/v1/model", headers={"host": host})).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:7006", "localhost", "[::1]:7006", "LOCALHOST:1"])
async def test_this_machine_asks_without_tokens(ask: Ask, host: str) -> None:
    async with ask() as client:
        assert (await client.get("/v1/model", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "model.example", "localhost.example"])
def test_no_start_for_others_without_tokens(host: str) -> None:
    with pytest.raises(ValidationError, match="needs a file of tokens"):
        InferenceSettings(host=host)


@pytest.mark.parametrize("content", ["", "# none\n", "short", "x" * 129, "with space " + "x" * 20, "é" * 30])
def test_files_that_hold_no_token(tmp_path: Path, content: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{content}\n")
    with pytest.raises(TokensUnusable) as refused:
        FileTokens.read(file)
    assert content.strip() == "" or content not in str(refused.value)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(TokensUnusable):
        FileTokens.read(file)
