"""libsodium's ristretto255, by way of the package rbcl.

rbcl carries libsodium inside itself and writes it to a temporary file to load it, which leaves a file behind for each
process and fails where the temporary folder may not hold programs. On Linux the file is put into memory instead.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class _InMemory:
    """What rbcl uses of a temporary file: its name, and that it can be closed."""

    name: str

    def close(self) -> None:
        """Nothing to flush."""


@contextmanager
def _temporary_files_in_memory() -> Iterator[None]:
    """Within, `tempfile.NamedTemporaryFile` names a file that is on no disk, where the system can do that."""
    original: Any = tempfile.NamedTemporaryFile
    made: list[int] = []

    def in_memory(*arguments: object, **named: object) -> object:
        with suppress(AttributeError, OSError):  # another system, or a kernel that was told to refuse
            made.append(os.memfd_create("libsodium"))
            return _InMemory(f"/proc/self/fd/{made[-1]}")
        return original(*arguments, **named)

    tempfile.NamedTemporaryFile = in_memory  # type: ignore[assignment]
    try:
        yield
    finally:
        tempfile.NamedTemporaryFile = original
        for descriptor in made:  # the library stays mapped
            os.close(descriptor)


with _temporary_files_in_memory():
    import rbcl as rbcl
