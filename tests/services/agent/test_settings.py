"""The agent's settings: paths relative to their file, faults by name, nothing heavy imported to read them."""

import subprocess
import sys
from pathlib import Path

import pytest

from undersong.services.agent.settings import ConfigError, load

HEAVY = ("torch", "numba", "pandas", "sqlalchemy", "fastapi", "numpy", "docker", "undersong.recipes")
URLS = "\n".join(f"{name}_url: http://x" for name in ("coordinator", "aggregator", "keys", "registry"))


def test_paths_are_relative_to_the_file_and_the_environment_wins(tmp_path, monkeypatch) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"{URLS}\nrecipes: [own.py]\n")
    monkeypatch.setenv("AGENT_DEVICE", "cpu")
    monkeypatch.setenv("AGENT_KEYS_URL", "http://other")
    settings = load(config)
    assert settings.policy == tmp_path / "policy.yaml"
    assert settings.recipes == [tmp_path / "own.py"]
    assert (settings.device, settings.keys_url) == ("cpu", "http://other")


@pytest.mark.parametrize("text", ["surprise: 1", "runner: moon", "[1", "- a", "docker: {surprise: 1}"])
def test_a_bad_file_names_its_fault(tmp_path, text: str) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(text)
    with pytest.raises(ConfigError, match=r"agent\.yaml"):
        load(config)


def test_the_agent_itself_imports_nothing_heavy() -> None:
    """Recipes and their libraries live in the child; numpy comes with the first round."""
    code = f"import sys, undersong.services.agent.__main__;print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"
