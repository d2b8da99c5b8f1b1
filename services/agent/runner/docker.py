"""The child as a container: no network, read-only root, no capabilities, limits on everything, not root.

Frames travel over the attached standard streams; models, results and data sets over bind mounts at the same
paths as on the host.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import structlog

from undersong.services.agent.domain.rules import Resources, TaskFailure
from undersong.services.agent.runner import folders
from undersong.services.agent.runner.pool import ChildGone
from undersong.services.agent.runner.protocol import Excess, Frame, Setup, frame_length, pack, unpack
from undersong.services.agent.settings import DockerSettings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

LABEL: Final = "undersong.agent"
STREAM: Final = struct.Struct(">BxxxL")  # Docker's multiplexed stream: 1 = stdout, 2 = stderr
STDERR_KEPT: Final = 4096
UNPRIVILEGED: Final = "10001:10001"


class DockerLauncher:
    """Starts one container per child through the docker SDK."""

    name = "docker"

    def __init__(
        self,
        settings: DockerSettings,
        resources: Resources,
        *,
        folder: Path,
        models: Path,
        device: str = "auto",
    ) -> None:
        self._settings, self._resources = settings, resources
        self._folder, self._models = folder, models
        self._gpu = device in ("cuda", "auto") and resources.gpus != 0
        own = f"{os.geteuid()}:{os.getegid()}" if os.geteuid() else UNPRIVILEGED
        self._user = settings.user or own

    async def start(self, setup: Setup) -> DockerChannel:
        """Create, attach and start a container with this child's data in it."""
        try:
            return await asyncio.to_thread(self._start, setup)
        except _docker().errors.ImageNotFound as error:
            raise TaskFailure("child-died", f"the image {self._settings.image} is not here", text=str(error)) from error
        except (_docker().errors.DockerException, OSError) as error:
            raise TaskFailure("child-died", "the container did not start", text=str(error)) from error

    async def clean(self) -> None:
        """Remove the containers of an earlier agent on this folder."""
        with suppress(_docker().errors.DockerException, OSError):
            await asyncio.to_thread(self._clean)

    def options(self, setup: Setup) -> dict[str, Any]:
        """Return what the container is created with."""
        import docker

        resources, settings = self._resources, self._settings
        options: dict[str, Any] = {
            "image": settings.image,
            "entrypoint": settings.command,  # not `command`: the image's own entry point starts an agent
            "user": self._user,
            "environment": {**settings.environment, "PYTHONSAFEPATH": "1", "HOME": "/tmp", "TMPDIR": "/tmp"},  # noqa: S108
            "working_dir": "/tmp",  # noqa: S108 (inside the container, its own tmpfs)
            "network_mode": "none",
            "read_only": True,
            "tmpfs": {"/tmp": f"rw,noexec,nosuid,nodev,mode=1777,size={settings.tmp_bytes}"},  # noqa: S108
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "mem_limit": resources.memory_bytes,
            "memswap_limit": resources.memory_bytes,
            "pids_limit": resources.pids,
            "ulimits": [docker.types.Ulimit(name="core", soft=0, hard=0)],
            "init": True,  # reaps what a recipe leaves behind
            "stdin_open": True,
            "labels": {LABEL: str(self._folder)},
            "mounts": self._mounts(setup),
            "log_config": docker.types.LogConfig(type="none"),
        }
        if resources.cpus:
            options["nano_cpus"] = int(resources.cpus * 1e9)
        if self._gpu:
            options["device_requests"] = [docker.types.DeviceRequest(count=resources.gpus, capabilities=[["gpu"]])]
        return options

    def _mounts(self, setup: Setup) -> list[Any]:
        import docker

        made = [(self._folder, self._folder, False), (self._models, self._models, True)]
        seen = dict.fromkeys(map(Path, setup.given))
        made += [(path, path, True) for path in seen if path.exists() and path != self._models]
        made += [(mount.source, Path(mount.target), mount.read_only) for mount in self._settings.mounts]
        return [
            docker.types.Mount(target=str(target), source=str(source), type="bind", read_only=read_only)
            for source, target, read_only in made
        ]

    def _start(self, setup: Setup) -> DockerChannel:
        self._folder.mkdir(exist_ok=True, parents=True)
        if os.geteuid() == 0:  # the container's user writes its results here
            uid, _, gid = self._user.partition(":")
            os.chown(self._folder, int(uid), int(gid or uid))
        client = _docker().from_env()
        try:
            container = client.containers.create(**self.options(setup))
        except BaseException:
            client.close()
            raise
        try:
            stream = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            raw: socket.socket = stream._sock  # noqa: SLF001 (the SDK has no public name for it)
            raw.setblocking(False)
            container.start()
        except BaseException:
            container.remove(force=True)
            client.close()
            raise
        return DockerChannel(client, container, stream, raw, (self._folder, setup.disk_bytes))

    def _clean(self) -> None:
        with closing(_docker().from_env()) as client:
            for left in client.containers.list(all=True, filters={"label": f"{LABEL}={self._folder}"}):
                log.warning("container.leftover_removed", container=left.short_id)
                left.remove(force=True)


def _docker() -> Any:
    """Return the SDK, imported only where it is used: it costs memory that a process runner does not need."""
    import docker

    return docker


class DockerChannel:
    """The attached streams of a container."""

    def __init__(self, client: Any, container: Any, stream: Any, raw: socket.socket, disk: tuple[Path, int]) -> None:
        self._client, self._container, self._stream, self._raw = client, container, stream, raw
        self._disk = disk
        self._buffer = bytearray()
        self._errors = bytearray()

    async def send(self, frame: Mapping[str, Any]) -> None:
        """Write a frame."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._raw, pack(frame))
        except OSError as error:
            raise ChildGone("its stream is closed") from error

    async def receive(self) -> Frame:
        """Read a frame."""
        size = frame_length(await self._take(4))
        return unpack(await self._take(size))

    def excess(self) -> Excess | None:
        """Return whether the shared folder holds too much; processes and memory are the engine's to limit."""
        folder, limit = self._disk
        return folders.excess([folder], limit)

    def memory(self) -> int:
        """Return the container's memory in bytes, as its engine counts it; 0 where it cannot say."""
        with suppress(_docker().errors.DockerException, OSError):
            return int(self._container.stats(stream=False, one_shot=True).get("memory_stats", {}).get("usage", 0))
        return 0

    def freeze(self, *, stopped: bool) -> None:
        """Pause the container, or let it go on."""
        with suppress(_docker().errors.DockerException, OSError):
            if stopped:
                self._container.pause()
            else:
                self._container.unpause()

    async def kill(self) -> str:
        """Remove the container with everything in it, and say how it ended."""
        self._raw.close()
        self._stream.close()
        return await asyncio.to_thread(self._remove)

    def _remove(self) -> str:
        how = "unknown"
        errors = _docker().errors
        with suppress(errors.DockerException):
            self._container.unpause()
        with suppress(errors.DockerException):
            self._container.kill()
        with suppress(errors.DockerException):
            ended = self._container.wait(timeout=10)
            self._container.reload()
            killed = " out of memory" if self._container.attrs["State"].get("OOMKilled") else ""
            how = f"exit code {ended['StatusCode']}{killed}"
        with suppress(errors.NotFound):
            self._container.remove(force=True)
        self._client.close()
        return f"{how}\n{self._errors.decode(errors='replace')}"

    async def _take(self, size: int) -> bytes:
        """Exactly that many bytes of standard output; standard error is kept aside."""
        loop = asyncio.get_running_loop()
        while len(self._buffer) < size:
            head = await self._read(loop, STREAM.size)
            which, length = STREAM.unpack(head)
            part = await self._read(loop, length)
            if which == 1:
                self._buffer += part
            else:
                self._errors = (self._errors + part)[-STDERR_KEPT:]
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _read(self, loop: asyncio.AbstractEventLoop, size: int) -> bytes:
        made = bytearray()
        while len(made) < size:
            try:
                part = await loop.sock_recv(self._raw, min(size - len(made), 65536))
            except OSError as error:
                raise ChildGone("its stream broke") from error
            if not part:
                raise ChildGone("its stream ended")
            made += part
        return bytes(made)
