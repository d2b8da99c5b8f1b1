"""The check of words sees engines' names outside `shared/secagg` and listed phrases, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "wording.py"
NAMED = {
    'if manifest.engine == "pairwise": pass': 1,
    "if manifest.engine == PAIRWISE: pass": 1,
    'SEALED = "sealed"': 1,
    "from undersong.shared.secagg.twoserver.report import Report": 1,
    '"""Rounds of engine sealed."""': 1,
    "x = 1  # only with `sealed`": 1,
    "class PairwiseRule: ...": 1,
    "sealed = sealer.seal(data)": 0,
    '"""The sealed columns, under the first key."""': 0,
    "from itertools import pairwise": 0,
    "for one, other in pairwise(times): pass": 0,
    "facts = engine_facts(manifest.engine)": 0,
}

PHRASES = {
    "# Whoever claims the round next goes on": 1,
    "a blob that nobody reads": 1,
    "It is stored for\n    # ever, as text": 1,
    "mended": 1,
    "each site is told once for\neach": 1,
    "The site fell out.": 1,
    "Twice is the same as once.": 1,
    "what it handed in; it stands": 2,
    "relay.rung": 1,
    "class RoundDesk: ...": 1,
    "Bell et al. (CCS 2020)": 0,
    "postgresql://nobody@localhost": 0,
    "declare what it stands for": 0,
    "for handed in turn.handed_in: amend(recommended, desktop)": 0,
    "the output falls outside": 0,
}


def run(*paths: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *paths], capture_output=True, text=True, check=False)


@pytest.mark.exhaustive  # `make lint` runs it
def test_no_text_says_what_is_refused() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(("expected", "suffix"), [(NAMED, "py"), (PHRASES, "md")], ids=["engines", "phrases"])
def test_what_is_refused(tmp_path: Path, expected: dict[str, int], suffix: str) -> None:
    files = [tmp_path / f"case_{number}.{suffix}" for number in range(len(expected))]
    for file, line in zip(files, expected, strict=True):
        file.write_text(f"{line}\n")
    done = run(*map(str, files))
    assert done.returncode == 1
    found = [done.stdout.count(f"{file}:") for file in files]
    assert dict(zip(expected, found, strict=True)) == expected
