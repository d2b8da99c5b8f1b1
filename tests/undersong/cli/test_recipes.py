"""`undersong recipe …` as docs/own-model.md shows it."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import Commands
from tests.pages import sh_commands
from undersong.recipes.protocol import source_digest
from undersong.services.agent.policy.file import parse
from undersong.services.agent.policy.signers import signed_recipes
from undersong.services.agent.policy.template import default_policy
from undersong.services.agent.runner import landlock
from undersong.shared.identity.owner import OwnerKey
from undersong.shared.yaml_texts import load_document

Run = Callable[..., "subprocess.CompletedProcess[str]"]
PAGE = (Path(__file__).parents[3] / "docs" / "own-model.md").read_text()

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(landlock.version() < 4, reason="this kernel cannot close everything to recipes"),
]


@pytest.fixture
def undersong(commands: Commands, tmp_path: Path) -> Run:
    """Run a command in the test's folder."""
    return lambda *words: commands.run(*words, cwd=tmp_path, env=os.environ)


def test_the_commands_of_the_page_run_in_their_order(
    undersong: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSONG_HOME", str(tmp_path / "home"))
    key = OwnerKey.generate()
    key.save(tmp_path / "home" / "owner.pem", None)
    printed = []
    for line in sh_commands(PAGE):
        done = undersong(*shlex.split(line)[1:], *(["--json"] if " check " in line else []))
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        printed.append(done.stdout)
    file = tmp_path / "network.py"
    assert json.loads(printed[1])["faults"] == []
    assert load_document(printed[2]) == [{"digest": source_digest(file)}]
    policy = default_policy({"tabular": "0" * 64}, {}, min_cohort=3, reports="code")
    for lines in printed[2:]:
        pasted = policy.replace("recipes:\n", f"recipes:\n{lines.splitlines()[-1]}\n", 1)
        assert len(parse(tmp_path / "policy.yaml", pasted.encode()).recipes) == 2, "as they are printed"
    assert load_document(printed[3].splitlines()[-1]) == [{"signer": key.public}]
    assert signed_recipes([file]) == {key.public: [source_digest(file)]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("new", "My-Recipe"), "is no name of a recipe"),
        (("new", "mine", "--kind", "torhc"), "did you mean"),
        (("new", "taken"), "is there already"),
    ],
)
def test_what_cannot_be_written_is_one_line(undersong: Run, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "taken.py").touch()
    done = undersong("recipe", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fault_is_a_line_and_the_exit_code(undersong: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\n")
    done = undersong("recipe", "check", str(tmp_path / "broken.py"))
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path / 'broken.py'}: fault: import: ")
    assert line.endswith("undersong recipe new writes an example")
