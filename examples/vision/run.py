"""Real agents in place of simulated clients: the whole platform and four sites on this machine, engine pairwise.

python examples/vision/run.py [--model cnn] [--rounds 5] [--mnist]

Each site has its own part of scikit-learn's digits (8x8 pixels, nothing is fetched), or of MNIST as `prepare.py mnist`
wrote it. Prints the accuracy over all sites' test images after each round.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import yaml

from undersong.local import Platform
from undersong.recipes.protocol import source_digest

HERE: Final = Path(__file__).resolve().parent
RECIPE: Final = HERE / "networks.py"
SITES: Final = ("north", "south", "east", "west")
JOBS: Final = {"2nn": "mnist-2nn.yaml", "cnn": "mnist-cnn.yaml"}
HELD_OUT: Final = 5  # a fifth of scikit-learn's digits is for the test
Part = tuple[npt.NDArray[Any], npt.NDArray[Any]]


def digits() -> dict[str, Part]:
    """Return scikit-learn's digits, images uint8[n, 8, 8], by part."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = (bunch.images * 15).astype(np.uint8), bunch.target.astype(np.uint8)
    test = np.arange(len(labels)) % HELD_OUT == 0
    return {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}


def mnist() -> dict[str, Part]:
    """Return what `prepare.py` wrote, by part; raises FileNotFoundError."""
    found = {}
    for part in ("train", "test"):
        with np.load(HERE / f"mnist-{part}.npz", allow_pickle=False) as opened:
            found[part] = opened["pixels"], opened["digit"]
    return found


def deal(parts: dict[str, Part], folder: Path) -> dict[str, dict[str, Any]]:
    """Write each site's files, and return its datasets.yaml; rows are dealt at random."""
    order = np.random.default_rng(0)
    dealt = {part: np.array_split(order.permutation(len(labels)), len(SITES)) for part, (_, labels) in parts.items()}
    found = {}
    for place, site in enumerate(SITES):
        (folder / site).mkdir()
        for part, (images, labels) in parts.items():
            rows = dealt[part][place]
            np.savez(folder / site / f"mnist-{part}.npz", pixels=images[rows], digit=labels[rows])
        declared: dict[str, Any] = yaml.safe_load((HERE / "mnist-data.yaml").read_text())
        (entry,) = declared["datasets"]
        entry["path"] = str(folder / site / entry["path"])
        entry["split"]["test_file"] = str(folder / site / entry["split"]["test_file"])
        found[site] = declared
    return found


def policy() -> dict[str, Any]:
    """Return what each site allows: this recipe's code, for its images."""
    return {
        "federations": ["own"],
        "recipes": [{"name": "networks", "digest": source_digest(RECIPE)}],
        "datasets": {"mnist": {"columns": "*"}},
        "engines": ["pairwise"],
    }


def run(parts: dict[str, Part], folder: Path, model: str, rounds: int) -> list[float]:
    """Start everything, run the job, and return the accuracy after each round."""
    job: dict[str, Any] = yaml.safe_load((HERE / JOBS[model]).read_text())
    job |= {"rounds": rounds, "cohort": {"min": len(SITES)}, "evaluation": {"every": 1}}
    with Platform() as platform:
        for site, datasets in deal(parts, folder).items():
            platform.add_site(site, datasets=datasets, policy=policy(), agent={"recipes": [str(RECIPE)]})
        platform.wait_sites_online(len(SITES), timeout_s=300)
        client = platform.client
        done = client.wait(client.submit_job(job | {"federation_id": platform.federation().id}).id, timeout_s=3600)
        if done.state != "succeeded":
            raise RuntimeError(f"the job {done.state}: {done.reason}")
        return [round_.metrics["accuracy"] for round_ in client.rounds(done.id) if round_.metrics]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it in a folder that goes away."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=sorted(JOBS), default="cnn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mnist", action="store_true", help="MNIST, which `prepare.py mnist` brings here")
    options = parser.parse_args(arguments)
    try:
        parts = mnist() if options.mnist else digits()
    except FileNotFoundError as error:
        parser.error(f"there is no {error.filename}: first run python examples/vision/prepare.py mnist")
    with tempfile.TemporaryDirectory(prefix="undersong-vision-") as folder:
        for number, accuracy in enumerate(run(parts, Path(folder), options.model, options.rounds), 1):
            sys.stdout.write(f"round {number}: accuracy {accuracy:.3f}\n")


if __name__ == "__main__":
    main()
