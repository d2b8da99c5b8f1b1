"""A real agent on a real small disk that fills up, and gets room again."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.agent.conftest import AgentProcess

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root mounts a small disk"),
]
MIB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def offer(platform: Any, agent: AgentProcess, size: int) -> None:
    version = platform.add_model([1.0] * (size // 4))
    platform.offer(platform.manifest(agent.recipe, model_ref=version))


def test_a_site_whose_disk_is_full_rests_until_there_is_room(
    platform: Any, make_agent: Callable[..., AgentProcess], small_disk: Path
) -> None:
    """The model does not fit: one failure `disk-full` and no more tasks; with room, the next task is done."""
    agent = make_agent(data_dir=str(small_disk / "state"))
    ballast = small_disk / "others"
    ballast.write_bytes(bytes(30 * MIB))
    offer(platform, agent, 40 * MIB)
    agent.start()
    platform.wait(lambda: platform.ended)
    assert platform.ended[0][1]["code"] == "disk-full"
    platform.wait(lambda: agent.events("disk.full"))
    leases = sum(path.endswith("/leases") for _, path, *_ in platform.requests)
    offer(platform, agent, MIB)
    platform.wait(lambda: len(agent.events("disk.full")) >= 1)
    assert sum(path.endswith("/leases") for _, path, *_ in platform.requests) == leases
    assert len(platform.ended) == 1
    ballast.unlink()
    platform.wait(lambda: len(platform.ended) >= 2)
    assert agent.events("disk.room")


def test_models_that_can_be_fetched_again_make_room(
    platform: Any, make_agent: Callable[..., AgentProcess], small_disk: Path
) -> None:
    """The cache of earlier models goes before a task is refused."""
    agent = make_agent(data_dir=str(small_disk / "state"))
    offer(platform, agent, 8 * MIB)
    agent.start()
    platform.wait(lambda: platform.ended)
    assert platform.ended[0][0].startswith("completions")
    cached = list((small_disk / "state" / "models").glob("*.safetensors"))
    assert cached
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "others").write_bytes(bytes(free - 12 * MIB))
    platform.wait(lambda: not any(path.exists() for path in cached))
    offer(platform, agent, MIB)
    platform.wait(lambda: len(platform.ended) == 2)
    assert platform.ended[1][0].startswith("completions")
    assert not agent.events("disk.full")
