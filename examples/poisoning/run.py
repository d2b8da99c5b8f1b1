"""Five sites, one of them poisons: the same job under two engines, on real services of this machine.

python examples/poisoning/run.py [--rounds 3] [--out docs/pictures]

Writes poisoning.json, what was measured, and poisoning.svg, its plot.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from sklearn.datasets import load_digits

from undersong.client.types import Job, Round, Version
from undersong.local import Platform
from undersong.local.layout import base_environment
from undersong.local.sites import SiteFolder
from undersong.recipes.catalogue import load_recipe
from undersong.recipes.protocol import Dataset, Params
from undersong.recipes.reference import score
from undersong.shared.learning.tensors import load

HERE: Final = Path(__file__).resolve().parent
SITES: Final = ("amsel", "drossel", "fink", "meise", "star")
POISONER: Final = "star"
HELD_OUT: Final = 360
CLIP: Final = 5.0
PARAMS: Final[dict[str, Any]] = {"learning_rate": 0.05}
POLICY: Final[dict[str, Any]] = {
    "federations": ["own"],
    "recipes": [{"name": "image"}],
    "datasets": {"digits": {"columns": "*"}},
    "engines": ["pairwise", "twoserver", "sealed"],
}
HONEST, PAIRWISE, TWOSERVER = "pairwise, all honest", "pairwise, one poisons", "twoserver, one poisons"
MEDIAN: Final = "sealed and median, one poisons"
COLOURS: Final = {HONEST: "#5b6b7a", PAIRWISE: "#c2410c", TWOSERVER: "#0f766e", MEDIAN: "#6d28d9"}
DASHES: Final = {HONEST: "7 5", PAIRWISE: "", TWOSERVER: "", MEDIAN: ""}
Curves = dict[str, list[float]]


class Digits:
    """1,797 images of 8x8 pixels: some held out from everybody, the rest dealt to the sites."""

    def __init__(self, folder: Path) -> None:
        bunch = load_digits()
        order = np.random.default_rng(0).permutation(len(bunch.target))
        self.images = (bunch.images / 16).astype(np.float32)[order]
        self.labels = bunch.target.astype(np.float64)[order]
        self.folder = folder
        self.parts = dict(zip(SITES, np.array_split(np.arange(HELD_OUT, len(order)), len(SITES)), strict=True))

    def write(self, site: str, *, flipped: bool = False) -> dict[str, Any]:
        """Return the site's file, and its datasets.yaml; `flipped`: each digit is called nine less itself."""
        rows, path = self.parts[site], self.folder / f"{site}.npz"
        labels = 9 - self.labels[rows] if flipped else self.labels[rows]
        np.savez(path, pixels=self.images[rows], digit=labels)
        columns = [{"name": "pixels", "type": "image"}, {"name": "digit", "type": "number"}]
        entry = {"name": "digits", "kind": "npz", "path": str(path), "label": "digit", "columns": columns}
        return {"datasets": [entry | {"test_fraction": 0.0}]}

    def accuracy(self, model: Path, params: Params = PARAMS) -> float:
        """Return a model's share of right answers on the images that no site has."""
        images, rows = self.images[:HELD_OUT, None], np.arange(HELD_OUT)
        data = Dataset("held out", (), images, self.labels[:HELD_OUT], rows[:0], rows, "digit")
        return score(load_recipe("image"), load(model.read_bytes()).tensors, data, params)["accuracy"]


class Attacked(Platform):
    """The embedded platform, of which one agent can be exchanged for one that cheats."""

    def corrupt(self, name: str) -> None:
        """Stop the site's own agent; `cheat.py` goes on with its key."""
        self.halt(f"agent.{name}")
        config = SiteFolder(self.home / "sites" / name).config
        command = [sys.executable, str(HERE / "cheat.py"), "--config", str(config)]
        self._start(f"agent.{name}", command, {**base_environment(), "OMP_NUM_THREADS": "1"}, forked=False)


class Experiment:
    """Four jobs from one first version, with the same seed."""

    def __init__(self, platform: Attacked, digits: Digits, rounds: int) -> None:
        self.platform, self.digits, self.rounds = platform, digits, rounds
        self.first: Version | None = None
        self.curves: Curves = {}
        self.refusals: list[str | None] = []  # what became of the poisoner's reports under twoserver

    def run(self) -> None:
        """Run all honest; then the poisoner under each engine."""
        for name in SITES:
            self.platform.add_site(name, datasets=self.digits.write(name), policy=POLICY)
        self.platform.wait_sites_online(len(SITES), timeout_s=180)
        self.curves[HONEST] = self._accuracies(self._job(HONEST, "pairwise"))
        self.digits.write(POISONER, flipped=True)
        self.platform.corrupt(POISONER)
        self.curves[PAIRWISE] = self._accuracies(self._job(PAIRWISE, "pairwise"))
        job = self._job(TWOSERVER, "twoserver")
        self.curves[TWOSERVER] = self._accuracies(job)
        self.curves[MEDIAN] = self._accuracies(self._job(MEDIAN, "sealed", "median"))
        self.refusals = [self._verdict(round_) for round_ in self._train_rounds(job)]

    def _job(self, name: str, engine: str, strategy: str = "fedavg") -> Job:
        client = self.platform.client
        spec = {
            "name": name,
            "federation_id": self.platform.federation().id,
            "model": {"name": "digits"} | ({"version_id": self.first.id} if self.first else {}),
            "recipe": {"name": "image", "params": PARAMS},
            "data": {"dataset": "digits"},
            "rounds": self.rounds,
            "engine": engine,
            "strategy": {"name": strategy, "weighting": "equal"},
            "update": {"clip_norm": CLIP},
            "evaluation": {"every": 0},
            "deadlines": {"round_s": 120},
        }
        job = client.wait(client.submit_job(spec).id, timeout_s=1800)
        if job.state != "succeeded":
            raise RuntimeError(f"{name}: the job {job.state}: {job.reason}")
        return job

    def _accuracies(self, job: Job) -> list[float]:
        """Of version 0 and of the version after each round."""
        client = self.platform.client
        versions = [v for v in client.versions(job.model_id or "") if v.lineage["job_id"] == job.id]
        if self.first is None:
            self.first = versions.pop(0)
        found = []
        for version in [self.first, *sorted(versions, key=lambda v: v.number)]:
            path = self.digits.folder / f"{version.id}.safetensors"
            client.download(version.id, path)
            found.append(round(self.digits.accuracy(path), 4))
        return found

    def _train_rounds(self, job: Job) -> list[Round]:
        return [r for r in self.platform.client.rounds(job.id) if (r.kind, r.phase) == ("train", "published")]

    def _verdict(self, round_: Round) -> str | None:
        tasks = self.platform.client.round(round_.id).model_dump()["tasks"]
        codes = {task["site_name"]: task["code"] for task in tasks if task["code"]}
        if set(codes) - {POISONER}:
            raise RuntimeError(f"an honest site was refused: {codes}")
        return codes.get(POISONER)


def picture(curves: Curves) -> str:
    """Return the curves as an SVG document: accuracy in percent over rounds."""
    left, top, width, height = 56, 20, 560, 260
    last = max(len(curve) for curve in curves.values()) - 1

    def at(number: float, accuracy: float) -> tuple[float, float]:
        return round(left + width * number / last, 1), round(top + height * (1 - accuracy), 1)

    box = f"0 0 {left + width + 184} {top + height + 48}"
    font = 'font-family="system-ui, sans-serif" font-size="13" fill="#334155"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img" {font}>',
        "<title>Accuracy on held-out images, round by round</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for percent in range(0, 101, 20):
        y = at(0, percent / 100)[1]
        parts.append(f'<path d="M{left} {y}H{left + width}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{percent} %</text>')
    parts += [
        f'<text x="{at(number, 0)[0]}" y="{top + height + 20}" text-anchor="middle">{number}</text>'
        for number in range(0, last + 1, max(1, last // 12))
    ]
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">round</text>')
    ends = sorted(curves, key=lambda name: -curves[name][-1])
    below = 0.0
    for name in ends:
        points = " ".join(f"{x},{y}" for x, y in (at(*point) for point in enumerate(curves[name])))
        dash = f' stroke-dasharray="{DASHES[name]}"' if DASHES[name] else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="2.5"{dash}/>')
        x, y = at(len(curves[name]) - 1, curves[name][-1])
        below = max(y + 4, below + 18)
        parts.append(f'<text x="{x + 10}" y="{below}" fill="{COLOURS[name]}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it, write both files, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "docs" / "pictures")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="undersong-poisoning-") as folder, Attacked(log_level="INFO") as platform:
        experiment = Experiment(platform, Digits(Path(folder)), options.rounds)
        experiment.run()
    curves, refusals = experiment.curves, experiment.refusals
    options.out.mkdir(parents=True, exist_ok=True)
    measured = {"clip_norm": CLIP, "accuracy": curves, "poisoner_under_twoserver": refusals}
    (options.out / "poisoning.json").write_text(json.dumps(measured, indent=1) + "\n")
    (options.out / "poisoning.svg").write_text(picture(curves))
    lines = [f"{'round':>5}  " + "  ".join(curves)]
    for number, row in enumerate(zip(*curves.values(), strict=True)):
        cells = [f"{value:.1%}".rjust(len(name)) for name, value in zip(curves, row, strict=True)]
        lines.append(f"{number:>5}  " + "  ".join(cells))
    refused = sum(code is not None for code in refusals)
    codes = ", ".join(sorted({code for code in refusals if code is not None}))
    lines.append(f"twoserver refused {POISONER} in {refused} of {len(refusals)} rounds: {codes}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
