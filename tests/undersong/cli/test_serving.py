"""`undersong serve`: a pulled file with its evidence, on this machine, until Ctrl-C."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.services.inference.versions import Trained
from undersong.local.layout import free_port

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


def serve(*words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "undersong", "serve", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_pulled_file_is_served_until_it_is_interrupted(tmp_path: Path) -> None:
    version, port = Trained(), free_port()
    file = tmp_path / "heart.safetensors"
    file.write_bytes(version.content)
    (tmp_path / "heart.evidence.json").write_bytes(version.evidence.pack())
    process = serve(str(file), "--ca", version.fingerprint, "--port", str(port))
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("verified ver_2: all ")
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=60) as client:
            answer = client.post(
                f"http://127.0.0.1:{port}/v1/predictions", json={"rows": [{"a": 60, "b": None, "c": "x"}]}
            )
        assert set(answer.json()["predictions"][0]["probabilities"]) == {"no", "yes"}
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_what_does_not_verify_is_one_line(tmp_path: Path) -> None:
    version = Trained()
    file = tmp_path / "heart.safetensors"
    file.write_bytes(version.content + b"x")
    (tmp_path / "heart.evidence.json").write_bytes(version.evidence.pack())
    for words, said in (
        (("--ca", version.fingerprint), "nothing is served"),
        (("--ca", "0" * 64), "not the one that was pinned"),
        ((), "nothing proves that heart.safetensors"),
    ):
        process = serve(str(file), *words)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1
        assert said in " ".join(err.split())
        assert "Traceback" not in err
