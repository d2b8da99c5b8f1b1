"""Flower's deployment engine as a peer: null-training rounds over its own real processes.

It lives in a virtual environment of its own, made on first use under build/bench/flower.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

VERSION = "1.41.0"
APP = Path(__file__).parent / "flower_app"


@dataclass(frozen=True)
class PeerRounds:
    """What one run cost: seconds of wall time and of CPU (all processes) for each round after the first."""

    latency_s: list[float]
    cpu_s: list[float]


def environment(folder: Path) -> Path:
    """The bin folder of the peer's own environment, made when missing."""
    binaries = folder / "venv" / "bin"
    if not (binaries / "flower-superlink").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        subprocess.run([str(binaries / "pip"), "install", "--quiet", f"flwr=={VERSION}", "numpy"], check=True)
    return binaries


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class FlowerPeer:
    """One SuperLink and n SuperNodes as processes on loopback."""

    def __init__(self, folder: Path, clients: int) -> None:
        self.folder = folder / f"n{clients}"
        self.clients = clients
        self.binaries = environment(folder)
        self.port = free_port()
        self.roots: list[psutil.Process] = []

    def __enter__(self) -> Self:
        """Start the server, then the clients."""
        shutil.rmtree(self.folder, ignore_errors=True)
        home = self.folder / "home"
        (home / ".flwr").mkdir(parents=True)
        (home / ".flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "local"\n[superlink.local]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        self.env = {
            **os.environ,
            "HOME": str(home),
            "FLWR_HOME": str(home / ".flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{self.binaries}:{os.environ['PATH']}",
        }
        alone = ["--insecure", "--isolation", "subprocess"]
        self._start("superlink", *alone, "--disable-runtime-dependency-installation", "--port", str(self.port))
        self._wait_for_server()
        for _ in range(self.clients):
            self._start("supernode", *alone, "--superlink", f"127.0.0.1:{self.port}", "--port", str(free_port()))
        return self

    def __exit__(self, *_: object) -> None:
        """Stop every process of the tree."""
        tree = [p for root in self.roots for p in (root, *root.children(recursive=True))]
        for process in tree:
            if process.is_running():
                process.kill()
        psutil.wait_procs(tree, timeout=10)

    def _start(self, name: str, *arguments: str) -> None:
        log = (self.folder / f"{name}-{len(self.roots)}.log").open("w")
        command = [str(self.binaries / f"flower-{name}"), *arguments]
        process = subprocess.Popen(command, env=self.env, stdout=log, stderr=subprocess.STDOUT)
        self.roots.append(psutil.Process(process.pid))

    def _wait_for_server(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        raise TimeoutError(f"the peer's server did not start: see {self.folder}")

    def cpu_s(self) -> float:
        """CPU seconds so far of every process of the tree, ended ones included."""
        total = 0.0
        for process in [p for root in self.roots for p in (root, *root.children(recursive=True))]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def rounds(self, parameters: int, rounds: int) -> PeerRounds:
        """Run the null app; the first round, which loads code, is not counted."""
        config = f"clients={self.clients} rounds={rounds + 1} parameters={parameters}"
        command = [str(self.binaries / "flwr"), "run", str(APP), "local", "--stream", "--run-config", config]
        ends: list[tuple[float, float]] = []
        output: list[str] = []
        with subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                output.append(line)
                if "NULLROUND end" in line:
                    ends.append((time.monotonic(), self.cpu_s()))
        if len(ends) != rounds + 1:
            raise RuntimeError("the peer's run failed:\n" + "".join(output[-20:]))
        pairs = list(itertools.pairwise(ends))
        return PeerRounds([b[0] - a[0] for a, b in pairs], [b[1] - a[1] for a, b in pairs])
