"""What this site's updates left out in a job with error feedback: a file for each round, never sent as it is.

A round adds what the newest round before it left out of which an answer was kept. So a round that is tried again begins
with the same as its first try, whatever became of that, and what was left out is never counted twice: where bytes may
have left, it counts as sent. What a site sent in a round that failed, or from which it dropped out, is lost as a whole
update of such a site is. Imports numpy: loaded with a round.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import structlog

from undersong.services.agent.repository.local_tensors import RoundFiles
from undersong.shared.ids import RoundId
from undersong.shared.learning import safetensors
from undersong.shared.learning.tensors import Vector
from undersong.shared.wire.manifest import RoundManifest

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_TENSOR: Final = "left_out"
_ROUND: Final = "round"


class Residuals:
    """The files in a folder that only its owner can read.

    answered: whether an answer to this round was kept. durable: whether a file outlives the machine's power.
    """

    def __init__(self, folder: Path, answered: Callable[[RoundId], bool], *, durable: bool = True) -> None:
        self._files, self._answered, self._durable = RoundFiles(folder), answered, durable

    def before(self, manifest: RoundManifest, parameters: int) -> Vector | None:
        """Return what earlier rounds of the job left out, float32[parameters]; None where there is nothing.

        A file that is damaged, or of a model of another size, counts as none: then the change that it held is lost.
        """
        for path in reversed(self._files.before(manifest)):
            try:
                content = path.read_bytes()
                round_id = safetensors.read_header(content).metadata.get(_ROUND, "")
                if not self._answered(RoundId(round_id)):
                    continue
                found: Mapping[str, object] = safetensors.read(content)
                vector = found.get(_TENSOR)
            except (OSError, safetensors.BadModelFile) as error:
                log.warning("residual.damaged", file=path.name, error=type(error).__name__)
                return None
            if isinstance(vector, np.ndarray) and vector.dtype == np.float32 and vector.shape == (parameters,):
                return vector
            log.warning("residual.unfit", file=path.name)
            return None
        return None

    def keep(self, manifest: RoundManifest, left_out: Vector) -> None:
        """Write down what this round's update leaves out, before an answer is kept."""
        content = safetensors.write({_TENSOR: left_out}, {_ROUND: manifest.round_id})

        def write(path: Path) -> None:
            with path.open("wb") as file:
                file.write(content)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())

        self._files.put(manifest, write)
