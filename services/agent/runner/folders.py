"""What recipes leave in their folders: measured, taken over, and erased, whatever it is."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

from undersong.services.agent.runner.protocol import Excess

ENTRIES = 20_000  # files and folders of one child; more take too long to count and to erase
BLOCK = 512  # bytes; the unit of st_blocks
PIECE = 2**20


class ResultFileRefused(Exception):
    """A recipe's file is not what a result may be."""


def fresh(folder: Path, mode: int = 0o700) -> None:
    """Put an empty folder in its place."""
    erase(folder)
    folder.mkdir(parents=True, mode=mode)
    folder.chmod(mode)


def erase(folder: Path) -> None:
    """Remove a folder with all that is in it, however deep."""
    if not os.path.lexists(folder):
        return
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):  # deeper than Python can follow
        subprocess.run(["rm", "-rf", "--", str(folder)], check=False, capture_output=True)  # noqa: S603, S607


def used(folders: Iterable[Path]) -> tuple[int, int]:
    """Bytes on the disk and number of entries; counting ends beyond `ENTRIES`, and what cannot be read is too many."""
    size = count = 0
    waiting = [str(folder) for folder in folders]
    while waiting and count <= ENTRIES:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    size, count = size + found.st_blocks * BLOCK, count + 1
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
                    if count > ENTRIES:
                        break
        except FileNotFoundError:  # erased meanwhile
            continue
        except OSError:
            return size, ENTRIES + 1
    return size, count


def excess(folders: Iterable[Path], limit: int) -> Excess | None:
    """Return whether the folders hold more than `limit` bytes (0: no limit) or too many entries."""
    size, count = used(folders)
    if limit and size > limit:
        return Excess("disk-limit", f"{size} bytes in files, the policy allows {limit}")
    return Excess("disk-limit", f"more than {ENTRIES} files and folders") if count > ENTRIES else None


def take(source: Path, target: Path, limit: int) -> Path | None:
    """Return a copy that the recipe cannot change under the reader's hands; None where there is no file.

    Raises `ResultFileRefused` for anything but a plain file of at most `limit` bytes (0: no limit): a link could point
    to a site's own files.
    """
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultFileRefused(f"{source.name} cannot be opened: {os.strerror(error.errno or 0)}") from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise ResultFileRefused(f"{source.name} is not a plain file")
    with os.fdopen(fd, "rb") as file:
        if limit and found.st_size > limit:
            raise ResultFileRefused(f"{source.name} has {found.st_size} bytes, more than {limit}")
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with target.open("wb") as copy:
            left = found.st_size
            while left and (piece := file.read(min(PIECE, left))):
                copy.write(piece)
                left -= len(piece)
    if left:
        raise ResultFileRefused(f"{source.name} became shorter while it was read")
    return target
