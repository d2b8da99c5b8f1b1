"""Refuse engines' names outside `shared/secagg`: services ask facts (`undersong.shared.secagg.facts`), never names.

    python deploy/engine_names.py [FILE ...]

Looks at strings, comments and identifiers of the product's packages. A name that is also an ordinary word of the code
("sealed") is refused only where it is used as the engine's. Code of the parties that an engine asks may import that
engine's messages; nothing else does.
"""

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent.parent
PACKAGES: Final = ("shared", "services", "undersong", "recipes")
ENGINES_FOLDER: Final = "shared/secagg/"
ORDINARY: Final = frozenset({"sealed"})
ELSEWHERE: Final = re.compile(r"itertools import .*\bpairwise\b|in pairwise\(|\bitertools\.pairwise\b")
"""Python's own function of that name."""
PARTIES: Final = (
    "services/keys/witness.py",
    "services/keys/api/rounds.py",
    "services/keys/helper/",
    "services/aggregator/peers/helper.py",
    "services/aggregator/driver/verification.py",
)
"""Where the parties are implemented: they import the messages of the engine that asks them."""
MIGRATIONS: Final = ("services/agent/store.py",)
"""Schemas as they once were: a default in a column is a fact of the past."""
SEEN: Final = frozenset({tokenize.NAME, tokenize.STRING, tokenize.COMMENT})


def engines() -> tuple[str, ...]:
    """Return the engines' names: the folders that have facts."""
    return tuple(sorted(path.parent.name for path in (HERE / ENGINES_FOLDER).glob("*/facts.py")))


def naming(name: str) -> re.Pattern[str]:
    """Return what names this engine in a token, or in a whole line of an import."""
    quoted = rf"""['"`]{name}['"`]|\bengines? `?{name}\b|secagg\.{name}\b|\b{name.upper()}\b"""
    return re.compile(quoted if name in ORDINARY else rf"(?i:{name})")


def findings(path: str, text: str) -> Iterator[str]:
    """Yield one line for each place that names an engine."""
    patterns = {name: naming(name) for name in engines()}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SEEN or ELSEWHERE.search(token.line):
            continue
        imports = token.type == tokenize.NAME and re.match(r"\s*(from|import)\s", token.line)
        if imports and path.startswith(PARTIES):
            continue
        seen = token.line if imports else token.string
        for name, pattern in patterns.items():
            if pattern.search(seen) and (not imports or token.string == name):
                yield f"{path}:{token.start[0]}: names the engine {name}; ask a fact of it (shared/secagg/facts.py)"


def files() -> list[str]:
    """Return the product's files that git knows, apart from the engines and from old schemas."""
    listed = subprocess.run(  # noqa: S603
        ["git", "ls-files", "--", *(f"{package}/*.py" for package in PACKAGES)],  # noqa: S607
        cwd=HERE, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    return [path for path in listed if not path.startswith(ENGINES_FOLDER) and path not in MIGRATIONS]


def main(paths: list[str]) -> int:
    """Print what is found; 1 where anything is."""
    found = [line for path in paths or files() for line in findings(path, (HERE / path).read_text())]
    sys.stdout.writelines(f"{line}\n" for line in dict.fromkeys(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
