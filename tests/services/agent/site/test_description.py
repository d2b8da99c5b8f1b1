"""Data sets that read the same file under two names are found: by path, by link and by folder."""

import os
from pathlib import Path

from undersong.services.agent.settings import AgentSettings
from undersong.services.agent.site.description import data_files, same_files

ENTRIES = """
datasets:
  - {name: heart, kind: csv, path: heart.csv}
  - {name: again, kind: csv, path: ./sub/../heart.csv}
  - {name: linked, kind: csv, path: link.csv}
  - {name: hard, kind: csv, path: hard.csv}
  - {name: split, kind: csv, path: own.csv, split: {test_file: heart.csv}}
  - {name: copied, kind: csv, path: copy.csv}
  - {name: images, kind: images, path: pictures}
  - {name: some, kind: images, path: pictures/north}
  - {name: gone, kind: csv, path: gone.csv}
  - {name: nothing, kind: none}
"""


def test_every_way_to_name_one_file_twice_is_found_and_nothing_else(tmp_path: Path) -> None:
    for name in ("heart.csv", "copy.csv", "own.csv"):
        (tmp_path / name).write_text("age\n1\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "pictures" / "north").mkdir(parents=True)
    (tmp_path / "link.csv").symlink_to("heart.csv")
    os.link(tmp_path / "heart.csv", tmp_path / "hard.csv")
    (tmp_path / "datasets.yaml").write_text(ENTRIES)
    urls = {f"{name}_url": "http://127.0.0.1:9" for name in ("coordinator", "aggregator", "keys", "registry")}
    found = same_files(data_files(AgentSettings(datasets=tmp_path / "datasets.yaml", **urls)))
    together = {"heart", "again", "linked", "hard", "split"}
    expected = {name: together - {name} for name in together} | {"images": {"some"}, "some": {"images"}}
    assert found == expected
