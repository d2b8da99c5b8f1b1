"""Run with an installed wheel: three sites, their own recipe, one job; prints what the model's weights are.

python use.py FOLDER RECIPE
"""

import subprocess
import sys
from pathlib import Path

import undersong
from undersong.local import Platform
from undersong.recipe import source_digest
from undersong.shared.learning.tensors import load

SITES = ("north", "east", "south")
NOTHING = {"datasets": [{"name": "nothing", "kind": "none", "columns": []}]}


def main() -> None:
    folder, recipe = Path(sys.argv[1]), Path(sys.argv[2])
    policy = {
        "federations": ["own"],
        "recipes": [{"name": "theirs", "digest": source_digest(recipe)}],
        "datasets": {"nothing": {"columns": "*"}},
        "engines": ["pairwise"],
    }
    with Platform(folder / "home", write_profile=True) as platform:
        for name in SITES:
            platform.add_site(name, datasets=NOTHING, policy=policy, agent={"recipes": [str(recipe)]})
        platform.wait_sites_online(len(SITES))
        spec = {
            "name": "theirs",
            "model": {"name": "theirs"},
            "recipe": {"name": "theirs"},
            "data": {"dataset": "nothing"},
            "rounds": 1,
            "evaluation": {"every": 0},
        }
        job = platform.client.wait(platform.client.submit_job(spec).id)
        sys.stdout.write(f"{job.state} {job.reason}\n")
        command = Path(sys.executable).with_name("undersong")
        pulled = folder / "model.safetensors"
        subprocess.run([command, "model", "pull", "theirs", "--out", pulled], check=True, stdout=subprocess.DEVNULL)
        sys.stdout.write(f"{load(pulled.read_bytes()).tensors['weights'].tolist()}\n{undersong.__file__}\n")


main()
