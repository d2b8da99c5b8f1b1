"""What the agent and the place where recipes run say to each other, and the Runner that both kinds are.

A frame is a u32 little-endian length and that many bytes of msgpack (a map with "type"). Tensors never
travel in frames: they lie in safetensors files of the task's own folder.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import msgpack

from undersong.shared.wire.manifest import DataRef
from undersong.shared.wire.privacy import PrivacyEvent

MAX_FRAME: Final = 16 * 2**20
PREFIX: Final = struct.Struct("<I")
RESULT_FILE: Final = "result.safetensors"
SUMS_FILE: Final = "sums.f64"
LOCAL_FILE: Final = "local.safetensors"
"""What the recipe leaves at this site for the job's next round."""

Frame = dict[str, Any]


class FrameError(Exception):
    """The other side does not speak in frames."""


def pack(frame: Mapping[str, Any]) -> bytes:
    """Return one frame's bytes."""
    body = bytes(msgpack.packb(dict(frame)))
    if len(body) > MAX_FRAME:
        raise FrameError(f"a frame of {len(body)} bytes")
    return PREFIX.pack(len(body)) + body


def unpack(body: bytes) -> Frame:
    """Return a frame from the bytes after its length."""
    try:
        frame = msgpack.unpackb(body, strict_map_key=True)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise FrameError("not msgpack") from error
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise FrameError("not a map with a type")
    return frame


def frame_length(prefix: bytes) -> int:
    """Return the length that a prefix announces; FrameError beyond the limit."""
    size = int(PREFIX.unpack(prefix)[0])
    if size > MAX_FRAME:
        raise FrameError(f"a frame of {size} bytes")
    return size


def snapshot_file(folder: Path, name: str) -> Path:
    """Return where the rows of a data set that is a query are kept."""
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.parquet"


@dataclass(frozen=True, slots=True)
class Setup:
    """What the child is told before anything else; limits of 0 mean none."""

    datasets: str
    recipes: tuple[str, ...] = ()
    allowed_digests: tuple[str, ...] = ()  # own code with any other digest is not imported
    device: str = "auto"
    processes: int = 1  # that train a recipe of PyTorch together
    memory_bytes: int = 0
    file_bytes: int = 0
    disk_bytes: int = 0  # all files of a child together
    pids: int = 0
    cpus: float = 0.0
    isolate_network: bool = True
    confine: bool = True  # False in a container, which does it from outside
    required: bool = False  # no child where a part of the confinement is missing
    reads: tuple[str, ...] = ()  # what any recipe may read: fetched models
    writes: tuple[str, ...] = ()  # what it may write, beside its home
    private: tuple[str, ...] = ()  # what it must not reach: tried once, and told
    data: tuple[str, ...] = ()  # files of data sets, for this child alone
    snapshots: str = ""  # folder of the rows of queries, of which `data` names the files

    def frame(self) -> Frame:
        """Return the setup as the first frame."""
        return {
            "type": "setup",
            **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()},
        }

    @property
    def given(self) -> tuple[str, ...]:
        """Everything that the child may read, beside the program."""
        return (self.datasets, *self.recipes, *self.reads, *self.data)

    def own(self, digest: str) -> bool:
        """Return whether this is the site's own code, which is trusted less than what comes with the agent."""
        return digest in self.allowed_digests


@dataclass(frozen=True, slots=True)
class Excess:
    """A child uses more than it was given."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One task for the recipe: everything it may know. Paths are absolute and the same on both sides.

    `local`: what the job's last round left at this site. `rows` (a file of
    `undersong.services.agent.runner.rehearsal.save_rows`) and `rounds` are an auditor's alone.
    """

    kind: str
    recipe: str
    recipe_digest: str
    params: Mapping[str, Any]
    data: DataRef
    context: Mapping[str, list[float]]
    seed: int
    folder: Path
    model: Path | None = None
    rows: Path | None = None
    rounds: int = 1
    local: Path | None = None

    def frame(self) -> Frame:
        """Return the order as a frame."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        paths = ("folder", "model", "local", "rows")
        plain |= {name: str(plain[name]) if plain[name] is not None else None for name in paths}
        return {"type": "run", **plain, "data": self.data.model_dump(mode="json"), "params": dict(self.params)}


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a recipe made: tensors of a model in a file, or float64 sums in a file.

    events: the noise that it says to have added as it trained. local: tensors that stay here for the next round.
    """

    tensors: Path | None = None
    sums: Path | None = None
    local: Path | None = None
    examples: int = 0
    loss: float = 0.0
    metrics_layout: str | None = None
    events: tuple[PrivacyEvent, ...] = ()

    def forget(self) -> None:
        """Erase the files, which show one site's update."""
        for path in (self.tensors, self.sums, self.local):
            if path is not None:
                path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Description:
    """What the site has: plain JSON documents (recipe specs, data set schemas, hardware)."""

    recipes: list[dict[str, Any]]
    own_recipes: list[str]
    datasets: list[dict[str, Any]]  # those that could be read to their ends
    hardware: dict[str, Any]
    faults: list[str] = field(default_factory=list)  # recipes that cannot be used, for the local log
    declared: list[dict[str, Any]] = field(default_factory=list)  # every usable declaration, read or not
    unread: dict[str, str] = field(default_factory=dict)  # why other data sets cannot be used, for the local log


Progress = Callable[[float], None]


class Runner(Protocol):
    """A place where recipes run. Cancelling `run` kills it, its whole group, and waits until it is gone."""

    name: str

    async def describe(self) -> Description:
        """Ask the child for its recipes and data; raises TaskFailure when it cannot describe them."""

    async def run(self, order: RunOrder, progress: Progress, *, limit_s: float) -> RunOutcome:
        """Run one order; TaskFailure with a code and what happened."""

    async def close(self) -> None:
        """End the child, if one is warm."""

    async def clean(self) -> None:
        """Kill what an earlier agent process left behind."""
