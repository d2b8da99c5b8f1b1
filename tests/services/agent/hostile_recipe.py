"""A recipe that attacks the site that it runs at, as its parameters say; every attack has a bound of its own.

Where it looks for things, it raises `Contained` when all that it tried was refused, and `Escaped` with what was not.
"""

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from undersong.recipes.protocol import TrainResult, source_digest
from undersong.shared.learning.metrics import layout_length
from undersong.shared.learning.tensors import Model, Schema
from undersong.shared.wire.profiles import RecipeSpec, Task

MIB = 2**20


class Contained(Exception):
    pass


class Escaped(Exception):
    pass


class Hostile:
    def __init__(self):
        self.spec = RecipeSpec(name="hostile", version="1", digest=source_digest(Path(__file__)), task=Task.BINARY)

    def statistics(self, data, params, seed):
        return np.zeros(1)

    def initial(self, shape, params, context, seed):
        tensors = {"weights": np.zeros(4, np.float32)}
        return Model(Schema.of(tensors), tensors)

    def evaluate(self, model, data, params, context):
        return np.zeros(layout_length("binary"))

    def predict(self, model, rows, params):
        return np.zeros(0)

    def train(self, model, data, params, context, seed, progress):
        progress(0.1)
        made = ATTACKS[params["attack"]](params)
        tensors = {name: np.asarray(array) for name, array in model.items()} if made is None else made
        return TrainResult(tensors, 10, 0.25)


def verdict(tries):
    """Do everything; what raises is refused."""
    escaped = []
    for name, attempt in tries:
        try:
            found = attempt()
        except Exception as error:
            print(name, "->", repr(error))
        else:
            escaped.append(f"{name}: {found!r}"[:200])
    if escaped:
        raise Escaped(escaped)
    raise Contained


def spy(params):
    """Files, secrets and processes that are not the recipe's."""
    tries = [(path, lambda path=path: Path(path).read_bytes()[:20] or "empty") for path in params["secrets"]]
    tries += [(f"list {path}", lambda path=path: os.listdir(path)) for path in params["folders"]]
    tries += [(f"write {path}", lambda path=path: Path(path).write_text("x")) for path in params["targets"]]
    if agent := params.get("agent"):
        folder = Path("/proc", str(agent))
        tries += [(f"{folder}/{name}", lambda name=name: (folder / name).read_bytes()[:20]) for name in
                  ("environ", "maps", "mem", *(f"root{path}" for path in params["secrets"]))]  # fmt: skip
        key = params["secrets"][0]
        tries += [
            ("stop the agent", lambda: os.kill(agent, signal.SIGURG)),
            ("the agent's limits", lambda: call(302, agent, 7, b"\1" * 16, 0)),
            ("trace the agent", lambda: call(101, 16, agent, 0, 0)),
            ("open the key to all", lambda: os.chmod(key, 0o644)),
            ("link to the key", lambda: os.symlink(key, "link")),
            ("hard link to the key", lambda: os.link(key, "hard")),
            ("a session of its own", lambda: subprocess.run(["/bin/true"], start_new_session=True, check=True)),
            ("namespaces", lambda: call(272, 0x10020000)),
            ("namespaces by clone", lambda: call(56, 0x10000011, 0, 0, 0, 0)),
            ("io_uring", lambda: call(425, 1, bytes(256))),
        ]
    verdict([*tries, ("inherited files", inherited), ("environment", environment)])


def call(number, *arguments):
    """A system call; OSError when it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    if (found := libc.syscall(number, *arguments)) < 0:
        raise OSError(ctypes.get_errno(), "refused")
    if found == 0 and number == 56:
        os._exit(0)
    return found


def environment():
    found = [name for name in os.environ if "SECRET" in name or name.startswith("AGENT_")]
    if not found:
        raise KeyError("nothing secret")
    return found


def inherited():
    """Open files that are none of: standard streams, the two pipes, the listing itself, the round's model."""
    found = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
             if os.path.lexists(f"/proc/self/fd/{fd}")}  # fmt: skip
    known = ("pipe:", "/dev/null", "/proc/", "anon_")
    odd = [
        where
        for where in found.values()
        if not where.startswith(known) and not where.endswith((".safetensors", "/model"))
    ]
    if not odd:
        raise KeyError(f"nothing but {sorted(found.values())}")
    return odd


def network(params):
    """The test's listener, by every kind of socket."""
    port = params["port"]

    def connect(kind, family=socket.AF_INET, where=("127.0.0.1", port)):
        with socket.socket(family, kind) as line:
            line.settimeout(3)
            line.connect(where)
            line.send(b"hello")
        return "sent"

    tries = [("tcp", lambda: connect(socket.SOCK_STREAM)), ("listen", listen)]
    if params.get("unix"):
        tries += [("unix", lambda: connect(socket.SOCK_STREAM, socket.AF_UNIX, params["unix"]))]
    if params.get("udp", True):
        tries += [("udp", lambda: connect(socket.SOCK_DGRAM))]
    verdict(tries)


def listen():
    with socket.create_server(("0.0.0.0", 0)) as line:
        if set(name for _, name in socket.if_nameindex()) <= {"lo"}:
            raise OSError("has no network interface to listen on")
        return line.getsockname()


def bomb(params):
    """Processes, up to a bound."""
    for _ in range(int(params["most"])):
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(300)
            os._exit(0)
    time.sleep(60)


def fill(params):
    """Files of 4 MiB each, up to a bound."""
    for number in range(int(params["most"])):
        Path(params["folder"], f"{number}.junk").write_bytes(b"x" * 4 * MIB)
    time.sleep(60)


def litter(params):
    """Folders in folders, deeper than a path can name."""
    os.chdir(params["folder"])
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    raise Contained


def one_file(params):
    with Path(params["folder"], "large").open("wb") as file:
        for _ in range(int(params["most"])):
            file.write(b"x" * MIB)


def eat(params):
    np.ones(int(params["most"]) * MIB // 8).sum()


def eat_shared(params):
    """Memory that no limit of one process counts, in several processes."""
    import mmap

    for _ in range(4):
        if os.fork() == 0:
            area = mmap.mmap(-1, int(params["most"]) * MIB // 4)
            area.write(b"x" * len(area))
            time.sleep(300)
    time.sleep(60)


def stubborn(params):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(300)


def daemon(params):
    """A process that outlives its parent and hides from who looks for a word in its environment."""
    if os.fork() == 0:
        if os.fork() == 0:
            for name in list(os.environ):
                del os.environ[name]
            program = "import sys, time; print('daemon', __import__('os').getpid(), file=sys.stderr); time.sleep(300)"
            os.execve(sys.executable, [sys.executable, "-I", "-c", program], {})
        os._exit(0)
    os.wait()
    time.sleep(2)


def nan(params):
    return {"weights": np.full(4, np.nan, np.float32)}


def huge(params):
    return {"weights": np.zeros(int(params["most"]) * MIB // 4, np.float32)}


def end():
    """Announce a result without the library."""
    frame = b"\x83\xa4type\xa6result\xa8examples\x0a\xa4loss\xcb" + struct.pack(">d", 0.5)
    say(struct.pack("<I", len(frame)) + frame)
    time.sleep(60)


def say(data):
    """Write to the agent behind the runner's back: the pipe is the one that is open for writing."""
    for fd in range(3, 64):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                os.write(fd, data)
                return
        except OSError:
            continue


def no_model(params):
    Path(params["folder"], "result.safetensors").write_bytes(b"\xff" * 4096)
    end()


def pipe_in_place(params):
    os.mkfifo(Path(params["folder"], "result.safetensors"))


def folder_in_place(params):
    Path(params["folder"], "result.safetensors").mkdir()
    end()


def link_in_place(params):
    Path(params["folder"], "result.safetensors").symlink_to(params["to"])
    end()


def babble(params):
    say(os.urandom(4096))
    time.sleep(60)


def lie(params):
    frame = b"\x84\xa4type\xa7failure\xa4code\xd9\x40" + b"A" * 64 + b"\xa5where\x05\xa6detail\x90"
    say(struct.pack("<I", len(frame)) + frame)
    time.sleep(60)


def shout(params):
    """More on standard error than a log should hold."""
    line = b"x" * 1023 + b"\n"
    for _ in range(int(params["most"]) * 1024):
        os.write(2, line)


ATTACKS = {
    made.__name__: made
    for made in (
        spy, network, bomb, fill, litter, one_file, eat, eat_shared, stubborn, daemon, nan, huge, no_model,
        pipe_in_place, folder_in_place, link_in_place, babble, lie, shout,
    )
}  # fmt: skip
RECIPE = Hostile()
