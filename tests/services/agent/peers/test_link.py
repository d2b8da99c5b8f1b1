"""What a service, or an attacker in its place, can answer to an agent: bombs, endless answers, and when to retry."""

import asyncio
import time
import zlib

import httpx
import psutil
import pytest

from undersong.services.agent.peers.link import Call, Link, RequestRefused, make_client

MIB = 2**20


def bomb() -> bytes:
    """64 MiB of nothing in 64 KiB."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(64)), packer.flush()])


class Odd:
    """A server that gives the answers of a list, one a request, and remembers when it was asked."""

    def __init__(self, *answers: bytes, endless: bool = False) -> None:
        self.answers, self.endless, self.asked = list(answers), endless, []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked.append(time.monotonic())
            writer.write(self.answers.pop(0))
            while self.endless:
                writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def head(status: str, **fields: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "connection: close", *(f"{k.replace('_', '-')}: {v}" for k, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def ask(odd: Odd, platform) -> httpx.Response:
    server = await asyncio.start_server(odd, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, make_client(None, [url]) as http:
        return await Link(http, url, "coordinator", lambda: platform.keys).ask(Call("GET", "/v1/x"))


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
async def test_a_compressed_answer_is_not_unpacked(platform, coding: str) -> None:
    body = bomb()
    before = psutil.Process().memory_info().rss
    answer = head("200 OK", content_encoding=coding, content_length=str(len(body)), content_type="application/json")
    with pytest.raises(RequestRefused, match="content-encoded"):
        await ask(Odd(answer + body), platform)
    assert psutil.Process().memory_info().rss - before < 32 * MIB


async def test_an_endless_answer_is_left(platform) -> None:
    answer = head("200 OK", transfer_encoding="chunked", content_type="application/json")
    with pytest.raises(RequestRefused, match="answer-too-large"):
        await ask(Odd(answer, endless=True), platform)


async def test_an_agent_comes_again_when_it_is_told_to(platform) -> None:
    odd = Odd(
        head("429 Too Many Requests", retry_after="1", content_length="0"),
        head("503 Service Unavailable", retry_after="2", content_length="0"),
        head("200 OK", content_length="2") + b"{}",
    )
    assert (await ask(odd, platform)).status_code == 200
    first, second, third = odd.asked
    assert second - first >= 1
    assert third - second >= 2
