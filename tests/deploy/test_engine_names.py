"""The check that refuses engines' names outside `shared/secagg` sees what it should, and nothing else."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "engine_names.py"
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


def run(*paths: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *paths], capture_output=True, text=True, check=False)


def test_the_product_names_no_engine_outside_its_folder() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (0, "")


def test_what_names_an_engine(tmp_path: Path) -> None:
    files = [tmp_path / f"case_{number}.py" for number in range(len(NAMED))]
    for file, line in zip(files, NAMED, strict=True):
        file.write_text(f"{line}\n")
    done = run(*map(str, files))
    assert done.returncode == 1
    found = [done.stdout.count(f"{file}:") for file in files]
    assert dict(zip(NAMED, found, strict=True)) == NAMED
