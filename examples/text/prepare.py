"""Make the roles of Shakespeare's plays into rows: python examples/text/prepare.py, or with --from FILE.

Without --from it fetches Project Gutenberg's complete works (5.6 MB, in the public domain in the USA). A speech is a
paragraph below a line with the speaker's name in capitals and a full stop; what stands in brackets is left out. A role
of a play is a client: the first 80 % of its lines are for training, the rest for the test, in passages of five windows.
"""

import argparse
import gzip
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import yaml

HERE: Final = Path(__file__).resolve().parent
SOURCE: Final = "https://www.gutenberg.org/ebooks/100.txt.utf-8"
PASSAGE: Final = 5 * 80 + 1
"""Characters of a row: five windows of 80, and what follows the last."""
TRAIN: Final = 0.8
_HEADING: Final = re.compile(r"[A-Z][A-Z’'&,\- ]*[A-Z]\.")
_BRACKETS: Final = re.compile(r"\[[^\]]*\]")


class Role(NamedTuple):
    """What a role of a play says: the texts for training and for the test."""

    play: str
    name: str
    train: str
    test: str


def roles_of(works: str) -> list[Role]:
    """Return the roles with at least two speeches of all plays; a play is what begins with its title and `Contents`."""
    lines: dict[tuple[str, str], list[list[str]]] = {}
    play, before = "", ""
    for block in re.split(r"\n\s*\n", works.replace("\r\n", "\n").replace("\ufeff", "")):
        head, *said = [line.strip() for line in block.strip().splitlines()] or [""]
        if head.casefold() == "contents" and before:
            play = before
        elif play and said and _HEADING.fullmatch(head):
            text = " ".join(_BRACKETS.sub("", "\n".join(said)).split(" "))
            spoken = [line.strip() for line in text.splitlines() if line.strip()]
            if spoken:
                lines.setdefault((play, head[:-1].title()), []).append(spoken)
        before = head if not said else before
    return [_role(play, name, speeches) for (play, name), speeches in lines.items() if len(speeches) > 1]


def _role(play: str, name: str, speeches: list[list[str]]) -> Role:
    spoken = [line for speech in speeches for line in speech]
    cut = max(1, min(len(spoken) - 1, round(TRAIN * len(spoken))))
    return Role(play, name, "\n".join(spoken[:cut]), "\n".join(spoken[cut:]))


def read_roles(file: Path) -> list[Role]:
    """Return the roles of Gutenberg's text, or of a file with `play`, `role`, `train`, `test` in each line's object."""
    raw = file.read_bytes()
    text = (gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw).decode("utf-8")
    if not text.startswith("{"):
        return roles_of(text)
    found = [json.loads(line) for line in text.splitlines()]
    return [Role(*(str(role[key]) for key in ("play", "role", "train", "test"))) for role in found]


def passages(text: str) -> Iterator[str]:
    """Yield a text in rows; each begins with the last character of the one before, so that all are predicted."""
    for at in range(0, max(1, len(text) - 1), PASSAGE - 1):
        yield text[at : at + PASSAGE]


def write_rows(roles: Iterable[Role], folder: Path) -> Path:
    """Write `rows.jsonl.gz` and the ``datasets.yaml`` that declares it; return the latter. Raises ValueError."""
    kept = [role for role in roles if len(role.train) > 1]
    names = [f"{role.name}, {role.play}" for role in kept]
    if not names:
        raise ValueError("there is no role with two speeches: it is not the text of plays that is expected here")
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.GzipFile(folder / "rows.jsonl.gz", "wb", mtime=0) as file:
        for name, role in zip(names, kept, strict=True):
            for part, text in (("train", role.train), ("test", role.test)):
                for passage in passages(text):
                    row = {"role": name, "part": part, "text": passage}
                    file.write((json.dumps(row) + "\n").encode())
    columns = [
        {"name": "text", "type": "text"},
        {"name": "role", "type": "category", "categories": list(dict.fromkeys(names))},
    ]
    entry = {"name": "plays", "kind": "jsonl", "path": "rows.jsonl.gz", "columns": columns}
    split = {"split": {"by": "column", "column": "part", "test": ["test"]}}
    declared = folder / "datasets.yaml"
    declared.write_text(yaml.safe_dump({"datasets": [entry | split]}, sort_keys=False, allow_unicode=True))
    return declared


def main() -> None:
    """Prepare the file that the command line names, or fetch Gutenberg's."""
    parser = argparse.ArgumentParser(description="Make the roles of Shakespeare's plays into rows.")
    parser.add_argument("--from", dest="source", type=Path, help="a file instead of the one at " + SOURCE)
    parser.add_argument("--out", type=Path, default=HERE / "data", help="the folder for the rows (default: data)")
    given = parser.parse_args()
    try:
        if given.source is None:
            with urlopen(SOURCE, timeout=60) as answer:
                roles = roles_of(answer.read().decode("utf-8-sig"))
        else:
            roles = read_roles(given.source)
        declared = write_rows(roles, given.out)
    except URLError as error:
        sys.exit(f"error: {SOURCE} cannot be read ({error.reason}): fetch it elsewhere and give --from FILE")
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{len(roles)} roles: {declared}\n")


if __name__ == "__main__":
    main()
