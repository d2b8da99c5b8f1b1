"""Opens files whose paths a person or another program chose, without waiting for what is no file.

Opening a named pipe waits until its other end is opened; a device may never end. What a path leads to is looked at
after it was opened, so that it cannot be exchanged in between. `NotAFile` is an OSError whose text names the kind.
"""

import errno
import os
import secrets
import stat
import tempfile
from io import FileIO
from pathlib import Path
from typing import Final

_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_AT_ONCE: Final = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
FileMark = tuple[int, int, int, int, int]
"""Device, inode, size, modification time and change time."""
_ROOM: Final = 1 << 16  # bytes that `check_writable` needs: some small files
LARGEST_INPUT: Final = 64 << 20
"""Bytes that `read_input` takes from a pipe or a file."""


class NotAFile(OSError):
    """The path leads to a folder, a pipe, a device or a socket, where a file is expected."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(errno.EINVAL, f"it is {kind}, and a file is expected", str(path))

    def __str__(self) -> str:
        """Return what it is, without the number."""
        return f"{self.filename}: {self.strerror}"


def mark_of(found: os.stat_result) -> FileMark:
    """Return what differs after a file was written or replaced.

    The change time is in it: who replaces a file can give it the size and modification time of the old one (`cp -p`,
    `rsync -t`, `touch -r`), but not its change time.
    """
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def file_mark(path: Path) -> FileMark | None:
    """Return the mark of the file to which a path leads, or None where there is none."""
    try:
        return mark_of(path.stat())
    except (OSError, ValueError):  # a path can hold what no path may
        return None


def tree_marks(path: Path) -> tuple[tuple[str, FileMark | None], ...]:
    """Return the mark of a file, or of a folder and all that is in it, each with its path; links are not followed."""
    found = [(str(path), file_mark(path))]
    for folder, inner, files in os.walk(path):
        inner.sort()
        found += [(each, file_mark(Path(each))) for each in (os.path.join(folder, name) for name in sorted(files))]  # noqa: PTH118
    return tuple(found)


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Return a descriptor of a regular file, opened at once; raises NotAFile or another OSError."""
    try:
        descriptor = os.open(path, flags | _AT_ONCE, mode)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EISDIR):  # a pipe without a reader or a socket; a folder to be written
            raise NotAFile(path, _kind(path.stat().st_mode)) from None
        raise
    found = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(found):
        os.close(descriptor)
        raise NotAFile(path, _kind(found))
    os.set_blocking(descriptor, True)
    return descriptor


def open_lock(path: Path) -> FileIO:
    """Open a file to be locked, made where it is not there (0600)."""
    return FileIO(open_regular(path, os.O_RDWR | os.O_CREAT), "r+")


def read_bytes(path: Path) -> bytes:
    """Return all bytes of a regular file; raises NotAFile or another OSError."""
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read()


def read_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Return the text of a regular file; raises NotAFile, another OSError or UnicodeDecodeError."""
    return _lines(read_bytes(path).decode(encoding, errors))


def check_writable(path: Path) -> None:
    """Make the folder of a file that will be written, and raise an OSError unless it can be written there now.

    Called before a token is made, a site added or another lasting step taken whose only trace is that file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise NotAFile(path, _kind(path.stat().st_mode))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    try:
        with tempfile.TemporaryFile(dir=path.parent, buffering=0) as file:
            file.write(bytes(_ROOM))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path.parent)) from error


def write_new(path: Path, text: str) -> bool:
    """Write a whole file where there is none; False, and nothing is changed, where there is one by now."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with part.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError:
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


def read_input(path: Path) -> bytes:
    """Return what a person hands to a command: a file, or a pipe to its end, such as a shell's ``<(command)``.

    Raises NotAFile for what is neither, and OSError beyond `LARGEST_INPUT` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    found = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(found) or stat.S_ISFIFO(found) or stat.S_ISSOCK(found) or os.isatty(descriptor)):
        os.close(descriptor)
        raise NotAFile(path, _kind(found))
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(LARGEST_INPUT + 1)
    if len(data) > LARGEST_INPUT:
        raise OSError(errno.EFBIG, f"it has more than {LARGEST_INPUT >> 20} MiB", str(path))
    return data


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "no file")


def _lines(text: str) -> str:
    """Return a text with every end of line as a line feed, as Python's own text files have them."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
