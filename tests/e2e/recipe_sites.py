"""The hospitals of `test_recipes`: made tables, pictures, series, texts and rows of a query, and their own recipes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import sqlalchemy as sa
import yaml
from PIL import Image

from undersong.local import Platform
from undersong.recipes.protocol import source_digest
from undersong.shared.identity.owner import OwnerKey
from undersong.shared.identity.signed_recipes import sign_recipe

ROOT = Path(__file__).parents[2]
OWN = (
    *(ROOT / "examples" / "own-recipe" / f"{name}.py" for name in ("svm", "network")),
    *(Path(__file__).with_name(f"{name}_recipe.py") for name in ("constant", "precision")),
)
SIGNED, SCIENTIST = "network.py", OwnerKey.generate()
HOSPITALS = ("cleveland", "hungarian", "va")
KINDS = ("red", "green", "blue", "café", "no")
ROWS, CATEGORY = 150, {"type": "category"}
COLUMNS = [
    {"name": "a", "type": "number"},
    {"name": "b", **CATEGORY, "categories": ["x", "y"]},
    {"name": "ill", "type": "number"},
    {"name": "answer", **CATEGORY, "categories": ["no", "yes"]},
    {"name": "kind", **CATEGORY, "categories": list(KINDS)},
    {"name": "fifty", "type": "number"},
    {"name": "price", "type": "number"},
]


def table(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    a = random.normal(size=ROWS)
    return pd.DataFrame(
        {
            "a": a,
            "b": random.choice(["x", "y"], ROWS),
            "ill": (a > 0).astype(int),
            "answer": np.where(a > 0.5, "yes", "no"),
            "kind": np.array(KINDS)[np.digitize(a, [-1, -0.3, 0.3, 1])],
            "fifty": random.permutation(ROWS) % 50,
            "price": 2e6 + 4e5 * a,
        }
    )


def pictures(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    seven = np.arange(84) % 7
    x = (random.integers(0, 60, (84, 8, 8)) + 25 * seven[:, None, None]).astype(np.uint8)
    return {"x": x, "two": (seven > 3).astype(np.int64), "seven": seven}


def shot(folder: Path, label: str) -> dict[str, Any]:
    columns = [{"name": "x", "type": "image"}, {"name": label, "type": "number"}]
    head = {"name": f"pictures-{label}", "columns": columns, "label": label}
    if label == "two":
        return {**head, "kind": "npz", "path": str(folder / "pictures.npz")}
    (folder / "pictures").mkdir()
    lines = ["x,seven"]
    with np.load(folder / "pictures.npz") as arrays:
        for place, (pixels, seven) in enumerate(zip(arrays["x"], arrays["seven"], strict=True)):
            Image.fromarray(pixels).save(folder / "pictures" / f"{place}.png")
            lines.append(f"{place}.png,{seven}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    images = {"folder": str(folder / "pictures"), "height": 8, "width": 8, "channels": "grey"}
    return {**head, "kind": "images", "path": str(folder / "manifest.csv"), "images": images}


def shared(folder: Path, name: str, place: int) -> dict[str, Any]:
    """The made table under two names: as `turned`, the last site lists all categories the other way round."""
    turned = name == "turned" and place == 2
    columns = [COLUMNS[0], COLUMNS[1], COLUMNS[3], *([COLUMNS[6]] if place else [])]
    columns = [
        {**column, "categories": column["categories"][::-1]} if turned and "categories" in column else column
        for column in columns
    ]
    return {"name": name, "kind": "csv", "path": str(folder / "made.csv"), "columns": columns, "label": "answer"}


def split(folder: Path) -> list[dict[str, Any]]:
    """Two data sets of one form: prices of 100, held-out ones of 300, and of a later year ones of 500."""
    lines = {"years": ["2020,100"] * 40 + ["2021,300"] * 10, "later": ["2022,500"] * 20}
    for name, rows in lines.items():
        (folder / f"{name}.csv").write_text("year,price\n" + "\n".join(rows) + "\n")
    columns = [{"name": "year", "type": "number"}, {"name": "price", "type": "number"}]
    form = {"kind": "csv", "columns": columns, "label": "price"}
    held_out = {"by": "column", "column": "year", "test": [2021]}
    return [
        {**form, "name": "years", "path": str(folder / "years.csv"), "split": held_out},
        {**form, "name": "later", "path": str(folder / "later.csv")},
    ]


def other_kinds(folder: Path, place: int) -> list[dict[str, Any]]:
    """A series of two sensors, in which each value follows from the two before it, and texts of five characters.

    One hospital's texts end with a mark that no other's have.
    """
    random, rows = np.random.default_rng(place), ["at,sensor,hour,speed"]
    for sensor in "ab":
        speed = [1.0, 2.0]
        for _ in range(118):
            speed.append(1.6 * speed[-1] - 0.9 * speed[-2] + random.normal())
        rows += [
            f"{f'2024-03-01T{at // 12:02}:{at % 12 * 5:02}'},{sensor},{at // 12},{value}"
            for at, value in enumerate(speed)
        ]
    (folder / "road.csv").write_text("\n".join(rows) + "\n")
    (folder / "notes.jsonl").write_text(
        "".join(f'{{"note": "{"fünf" + "!?"[place > 0]}", "n": 0}}\n' for _ in range(50))
    )
    road = {
        "series": {"time": "at", "target": "speed", "lags": 2, "group": "sensor", "every": "5 min", "known": ["hour"]},
        "dates": {"at": "%Y-%m-%dT%H:%M"},
        "split": {"by": "time", "column": "at", "test_from": "2024-03-01T08:00"},
        "columns": [{"name": "speed", "type": "number"}, {"name": "hour", "type": "number"}],
    }
    notes = {"columns": [{"name": "note", "type": "text"}, {"name": "n", "type": "number"}], "label": "n"}
    return [
        {"name": "road", "kind": "csv", "path": str(folder / "road.csv"), **road},
        {"name": "notes", "kind": "jsonl", "path": str(folder / "notes.jsonl"), **notes},
    ]


SECRET = "correct-horse-battery"


def query(folder: Path, server: str, place: int) -> dict[str, Any]:
    """A data set whose rows are in a table of the site's own; the URL's password is in one file."""
    table = f"visits_{place}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {table} AS SELECT 7.5 AS price, g AS year FROM generate_series(1, 40) g"
        )
    url = sa.make_url(server).set(password=SECRET).render_as_string(hide_password=False)
    (folder / "database.url").write_text(url)
    asked = {"url_file": str(folder / "database.url"), "query": f"SELECT price, year FROM {table}"}
    columns = [{"name": "year", "type": "number"}, {"name": "price", "type": "number"}]
    return {"name": "visits", "kind": "sql", "sql": asked, "columns": columns, "label": "price"}


TELLING = 2
"""How many of the hospitals tell their own metrics to jobs that ask."""


def make_site(platform: Platform, folder: Path, place: int, server: str) -> None:
    """A hospital with three data sets and two recipes of its own, which its policy allows by their digests."""
    name = HOSPITALS[place]
    own = folder / "own-recipes"
    own.mkdir(parents=True)
    for file in OWN:
        shutil.copy(file, own)
    sign_recipe(own / SIGNED, source_digest(own / SIGNED), SCIENTIST)
    table(place).to_csv(folder / "made.csv", index=False)
    np.savez(folder / "pictures.npz", **pictures(place))
    heart = yaml.safe_load((ROOT / "examples" / "hospital" / "datasets" / f"{name}.yaml").read_text())["datasets"][0]
    heart["path"] = str(ROOT / "examples" / "hospital" / "heart_disease.csv")
    datasets = [
        heart,
        {"name": "made", "kind": "csv", "path": str(folder / "made.csv"), "columns": COLUMNS},
        *(shot(folder, label) for label in ("two", "seven")),
        *(shared(folder, name, place) for name in ("straight", "turned")),
        *split(folder),
        *other_kinds(folder, place),
        query(folder, server, place),
    ]
    policy = {
        "federations": ["own"],
        "recipes": [
            *({"name": built_in} for built_in in ("tabular", "image", "series", "text", "trees", "null")),
            *({"digest": source_digest(own / file.name)} for file in OWN if file.name != SIGNED),
            {"signer": SCIENTIST.public},
        ],
        "datasets": {entry["name"]: {"columns": "*"} for entry in datasets},
        "engines": ["pairwise", "twoserver", "sealed"],
    }
    if place < TELLING:
        policy["site_metrics"] = {"min_rows": 20}
    settings = {"recipes": [str(own)], "containment": "required", "device": "cpu"}
    platform.add_site(name, datasets={"datasets": datasets}, policy=policy, agent=settings)
