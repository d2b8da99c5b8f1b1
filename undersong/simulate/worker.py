"""A worker process of a simulation: ``python -m undersong.simulate.worker SETUP``, chunks on standard input.

It ends with its parent: when standard input ends, and on Linux at once when the parent is killed.
"""

import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from undersong.recipes.catalogue import load_recipe
from undersong.shared.wire.manifest import RoundManifest
from undersong.simulate.clients import Chunk, ChunkSum, ClientWork
from undersong.simulate.executors import ROWS, WorkerSetup, fault_of
from undersong.simulate.kept import KeptTensors
from undersong.simulate.rows import ClientRows

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Do chunks until standard input ends."""
    _end_with_the_parent()
    setup = WorkerSetup(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a recipe prints must not stand between answers
    work, scratch, prepared = None, Path(setup.scratch), 0
    for line in sys.stdin:
        chunk = json.loads(line)
        try:
            if work is None:
                recipe = load_recipe(setup.recipe, [Path(path) for path in setup.own])
                rows, kept = ClientRows.open(scratch / ROWS), KeptTensors(Path(setup.kept))
                work = ClientWork(rows, recipe, setup.engine, setup.seed, kept)
            if chunk["round"] != prepared:
                prepared = chunk["round"]
                _prepare(work, scratch, prepared)
            tests = tuple(map(tuple, chunk["tests"]))
            made = work.run(Chunk(tuple(chunk["clients"]), chunk["start"], chunk["stop"], tests))
            facts = _told(made, scratch / f"{chunk['number']}.bin")
        except Exception as error:  # noqa: BLE001 (a recipe may raise anything; the parent tells it)
            facts = {"error": fault_of(error)}
        answers.write(json.dumps(facts).encode() + b"\n")
        answers.flush()


def _end_with_the_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _prepare(work: ClientWork, scratch: Path, number: int) -> None:
    manifest = RoundManifest.model_validate_json((scratch / f"{number}.json").read_bytes())
    model = scratch / f"{number}.safetensors"
    work.prepare(manifest, model.read_bytes() if model.exists() else None)


def _told(made: ChunkSum, path: Path) -> dict[str, Any]:
    """Write an answer's sum to a file, and return the rest."""
    if made.total is not None:
        made.total.tofile(path)
    return {
        "dtype": None if made.total is None else made.total.dtype.str,
        "count": made.count,
        "faults": [asdict(fault) for fault in made.faults],
        "weight": made.weight,
        "loss": made.loss,
        "clipped": made.clipped,
    }


if __name__ == "__main__":
    main()
