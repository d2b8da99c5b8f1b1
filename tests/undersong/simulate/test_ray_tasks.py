"""Simulations as tasks of Ray: the same results as in one process; without Ray a sentence says what to install."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.undersong.simulate.slopes import SLOPE, job, run, untimed, write
from undersong.client.types import Round
from undersong.errors import UndersongError
from undersong.simulate import simulate
from undersong.simulate.kept import KEPT, KeptTensors

INSTALLED = importlib.util.find_spec("ray") is not None


def test_without_ray_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undersong.simulate.ray_tasks._PACKAGE", "no_such_ray")
    with pytest.raises(UndersongError, match=r"Ray is not installed.*undersong\[ray\]"):
        run(job(), tmp_path, clients=6, workers="ray")


@pytest.mark.process
@pytest.mark.exhaustive
@pytest.mark.skipif(not INSTALLED, reason="Ray is not installed: pip install 'undersong[ray]'")
def test_ray_gives_the_same_bits_as_one_process(tmp_path: Path) -> None:
    """By command, as a process of its own: clients that keep tensors, that are slow, drop out and are evaluated."""
    compressed = {"clip_norm": 5.0, "keep": 0.5, "error_feedback": True}
    asked = job(recipe={"name": "slope", "params": {"keeps": True}}, rounds=3, update=compressed)
    words = [*write(tmp_path, asked), "--clients", "40", "--sample", "0.8", "--drop", "0.1", "--slow", "0.1:20"]
    command = [sys.executable, "-c", "from undersong.cli import main; main()", *words, "--workers"]
    out = tmp_path / "ray"
    subprocess.run([*command, "ray", "--out", str(out)], check=True, timeout=110)
    here = simulate(
        asked,
        tmp_path / "datasets.yaml",
        clients=40,
        sample=0.8,
        drop=0.1,
        slow="0.1:20",
        workers=0,
        recipes=[SLOPE],
        out=tmp_path / "here",
    )
    assert (out / "model.safetensors").read_bytes() == here.model.read_bytes()
    found = json.loads((out / "run.json").read_text())["rounds"]
    assert [untimed(Round.model_validate(each)) for each in found] == [untimed(each) for each in here.rounds]
    mine, theirs = (KeptTensors(folder / KEPT) for folder in (out, here.folder))
    assert mine.clients(99) == theirs.clients(99) != []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "[::1]:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_told(tmp_path: Path, address: str) -> None:
    with pytest.raises(UndersongError) as refused:
        run(job(), tmp_path, clients=6, workers=f"ray:{address}")
    assert f"Ray at {address} did not answer" in str(refused.value)
    assert "\n" not in str(refused.value)
