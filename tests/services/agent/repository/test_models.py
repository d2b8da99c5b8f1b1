"""A model's way to the site: a cut download goes on, and nothing is used that has not the digest as a whole."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.services.agent.fake_platform import FakePlatform
from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.peers import backoff
from undersong.services.agent.peers.link import Link, RequestRefused, make_client
from undersong.services.agent.peers.registry import Registry
from undersong.services.agent.repository.models import ModelCache
from undersong.shared.ids import Digest, VersionId, digest_of

BODY = bytes(range(256)) * 4000
DIGEST, VERSION = digest_of(BODY), VersionId("ver_1")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "CAP_S", 0.05)


@asynccontextmanager
async def registry(platform: FakePlatform, folder: Path, limit: int = 1 << 30) -> AsyncIterator[Registry]:
    async with make_client(None, [platform.url]) as http:
        link = Link(http, platform.url, "registry", lambda: platform.coordinator)
        yield Registry(link, ModelCache(folder / "models", limit))


async def test_a_cut_download_goes_on_also_after_a_restart(platform: FakePlatform, tmp_path: Path) -> None:
    platform.models[VERSION], platform.cuts = BODY, [300_000, 0, 300_000]
    async with registry(platform, tmp_path) as first:
        path = await first.fetch(VERSION, DIGEST, limit_bytes=len(BODY))
    assert path.read_bytes() == BODY
    assert platform.ranges == [None, "bytes=300000-", "bytes=300000-", "bytes=600000-"]
    assert [file.name for file in (tmp_path / "models").iterdir()] == [f"{DIGEST}.safetensors"]


@pytest.mark.parametrize("left", [b"rotten", BODY[:1000], BODY, BODY + b"more"])
async def test_what_an_earlier_run_left_is_taken_up_or_replaced(
    platform: FakePlatform, tmp_path: Path, left: bytes
) -> None:
    platform.models[VERSION] = BODY
    async with registry(platform, tmp_path) as found:
        (tmp_path / "models" / f"{DIGEST}.part").write_bytes(left)
        assert (await found.fetch(VERSION, DIGEST, limit_bytes=1 << 30)).read_bytes() == BODY


async def test_a_file_that_rots_between_two_ranges_is_never_used(platform: FakePlatform, tmp_path: Path) -> None:
    """Each part came without a fault, and together they are another model: all of it is asked for once more."""
    rotten = bytearray(BODY)
    rotten[5] ^= 1

    class Rotting(dict[str, bytes]):
        """The first reading gives other bytes."""

        def __getitem__(self, key: str) -> bytes:
            return bytes(rotten) if len(platform.ranges) <= 1 else BODY

    platform.models = Rotting({VERSION: BODY})
    platform.cuts = [300_000]
    async with registry(platform, tmp_path) as found:
        assert (await found.fetch(VERSION, DIGEST, limit_bytes=1 << 30)).read_bytes() == BODY
    assert platform.ranges == [None, "bytes=300000-", None]


async def test_other_bytes_leave_nothing(platform: FakePlatform, tmp_path: Path) -> None:
    platform.models[VERSION] = b"x" + BODY[1:]
    async with registry(platform, tmp_path) as found:
        for cuts in ([], [300_000]):
            platform.cuts = cuts
            with pytest.raises(TaskFailure, match="model-digest"):
                await found.fetch(VERSION, DIGEST, limit_bytes=1 << 30)
        for cuts in ([], [300_000]):
            platform.cuts = cuts
            with pytest.raises(TaskFailure, match="model-too-large"):
                await found.fetch(VERSION, DIGEST, limit_bytes=len(BODY) - 1)
        with pytest.raises(RequestRefused, match="404"):
            await found.fetch(VersionId("ver_2"), Digest("0" * 64), limit_bytes=1)
    assert list((tmp_path / "models").iterdir()) == []


async def test_the_cache_holds_what_was_used_last_and_gives_room(platform: FakePlatform, tmp_path: Path) -> None:
    others = [b"abcdef", b"ghijkl"]
    platform.models = {f"ver_{at}": body for at, body in enumerate(others)}
    async with registry(platform, tmp_path, limit=10) as found:
        paths = [
            await found.fetch(VersionId(f"ver_{at}"), digest_of(body), limit_bytes=100)
            for at, body in enumerate(others)
        ]
    cache = ModelCache(tmp_path / "models", 10)
    assert [path.exists() for path in paths] == [False, True]
    assert cache.find(digest_of(others[1])) == paths[1]
    (tmp_path / "models" / f"{DIGEST}.part").write_bytes(b"x")
    cache.evict()
    assert list((tmp_path / "models").iterdir()) == []
