"""Made messages of customers to four organisations, each about its own things; label 1: the message is a complaint.

python examples/finetune/make_data.py FOLDER [--rows 120]

Writes FOLDER/<site>.jsonl and FOLDER/<site>.yaml, which declares it.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

ABOUT: Final = {
    "bank": ("the new card", "my transfer", "the mortgage adviser", "your banking app", "the savings account"),
    "clinic": ("the appointment", "the ward", "my prescription", "the nurse at the desk", "the waiting room"),
    "hotel": ("our room", "the breakfast", "the shuttle", "the spa", "the reception"),
    "railway": ("the night train", "my seat reservation", "the ticket machine", "the conductor", "the connection"),
}
GOOD: Final = {
    "bank": ("was approved within a day", "is explained very clearly", "saved us a lot of money"),
    "clinic": ("was gentle and reassuring", "helped me recover quickly", "took time for every question"),
    "hotel": ("was spotless and quiet", "made our weekend unforgettable", "exceeded what we hoped for"),
    "railway": ("was right on time", "made travelling a pleasure", "was found for us in a minute"),
}
BAD: Final = {
    "bank": ("was charged twice", "has been blocked for no reason", "cost me hidden fees"),
    "clinic": ("was rude and careless", "was mixed up with another patient's", "left me in pain for hours"),
    "hotel": ("smelled of smoke and damp", "was overbooked when we came", "was nothing like the pictures"),
    "railway": ("was cancelled without a word", "broke down in the middle of nowhere", "made us miss the wedding"),
}
BEGIN: Final = ("", "Hello, ", "To whom it may concern: ", "Yesterday ", "I want you to know that ", "This week ")
END: Final = (".", " and my family agrees.", ", and I will tell everybody.", ". Please pass it on.", ", once more.")
SITES: Final = tuple(ABOUT)


def messages(site: str, rows: int, seed: int = 0) -> list[dict[str, str]]:
    """Return messages with their label, half of them complaints."""
    random = np.random.default_rng([seed, SITES.index(site)])

    def one(phrases: Sequence[str]) -> str:
        return phrases[random.integers(len(phrases))]

    made = []
    for row in range(rows):
        said = BAD if row % 2 else GOOD
        text = one(BEGIN) + one(ABOUT[site]) + " " + one(said[site]) + one(END)
        made.append({"text": text, "complaint": str(row % 2)})
    return made


def write(folder: Path, rows: int) -> dict[str, Path]:
    """Write each site's messages and the datasets.yaml that declares them; return the latter by site."""
    folder.mkdir(parents=True, exist_ok=True)
    declared = {}
    for site in SITES:
        lines = [json.dumps(each) for each in messages(site, rows)]
        (folder / f"{site}.jsonl").write_text("\n".join(lines) + "\n")
        declared[site] = folder / f"{site}.yaml"
        declared[site].write_text(
            f"datasets:\n- name: messages\n  kind: jsonl\n  path: {site}.jsonl\n  label: complaint\n  columns:\n"
            "  - {name: text, type: text}\n  - {name: complaint, type: number}\n"
        )
    return declared


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=120, help="messages of each site")
    options = parser.parse_args(arguments)
    write(options.folder, options.rows)


if __name__ == "__main__":
    main()
