"""Refuse words that do not belong: engines' names outside `shared/secagg`, and phrases that we do not use.

    python deploy/wording.py [FILE ...]

Services ask facts of an engine (`undersong.shared.secagg.facts`), never its name: strings, comments and identifiers of
the product's packages are searched. A name that is also an ordinary word of the code ("sealed") is refused only where
it is used as the engine's. Code of the parties that an engine asks may import that engine's messages; nothing else
does.

The phrases are those that the field has a word for, or that leave a party without its name (docs/glossary.md). They are
searched in every text that git knows, over the ends of lines too.
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
    "services/keys/custodian/",
    "services/aggregator/peers/helper.py",
    "services/aggregator/peers/custodian.py",
    "services/aggregator/driver/verification.py",
)
"""Where the parties are implemented: they import the messages of the engine that asks them."""
MIGRATIONS: Final = ("services/agent/repository/store.py",)
"""Schemas as they once were: a default in a column is a fact of the past."""
PHRASES: Final = {
    r"whoever|whomever": "name the party",
    r"nobody(?!@)|somebody": "name the party: no site, another request, an operator",
    r"mend(?:s|ed|ing)?": "fix, correct, repair",
    r"for ever": "permanently, without limit, never … again",
    r"once for each": "once per",
    r"twice is (?:as|the same as) once": "idempotent",
    r"(?:falls?|fell|fallen|falling) out": "drop out",
    r"those that there are": "the existing ones",
    r"puts? out (?:a |the )?(?:tasks?|rounds?)": "dispatch",
    r"(?:round|task|one) that is out": "in flight",
    r"good once": "single-use",
    r"(?<!by )(?<!at )(?<!for )hand(?:s|ed|ing)? in": "submit, send",
    r"it stands(?! for)|stands, stands|(?:message|update|digest)s? (?:that )?stands?": "is accepted, stored, final",
    r"becomes? somebody|becoming somebody": "enrolment",
    r"sum of a few": "sum over fewer than the minimum cohort",
    r"garbage inside the ring": "in-range poisoning",
    r"(?-i:rung|unrung|bells?)": "notify, announce",
    r"(?-i:\w*(?:Desk|Foreman|House|Staff|Seat)|\w+Bell)": "a name of the field: server round, view model, driver",
}
"""What is refused, and what to write instead. A space also matches the end of a line and a comment's beginning."""
EXEMPT: Final = re.compile(
    r"CHANGELOG\.md|LICENSE|deploy/(?:wording\.py|locks/.*)|tests/deploy/test_wording\.py|docs/openapi/.*|tests/vectors/.*"
)
"""History, the words of others, this list and its test, and what is generated from text that is searched itself."""
TEXTS: Final = frozenset({".py", ".md", ".html", ".js", ".yml", ".yaml", ".toml", ".sh", ".conf", ".cfg", ".mako", ""})
SEEN: Final = frozenset({tokenize.NAME, tokenize.STRING, tokenize.COMMENT})


def engines() -> tuple[str, ...]:
    """Return the engines' names: the folders that have facts."""
    return tuple(sorted(path.parent.name for path in (HERE / ENGINES_FOLDER).glob("*/facts.py")))


def naming(name: str) -> re.Pattern[str]:
    """Return what names this engine in a token, or in a whole line of an import."""
    quoted = rf"""['"`]{name}['"`]|\bengines? `?{name}\b|secagg\.{name}\b|\b{name.upper()}\b"""
    return re.compile(quoted if name in ORDINARY else rf"(?i:{name})")


def listed_phrases() -> re.Pattern[str]:
    """Return one pattern for all listed phrases; a match's last group is the phrase's place in the list."""
    gap = r"\s+(?:(?:#:?|//|\*|>)\s*)?"
    each = (re.sub(r" (?!\))", lambda _: gap, phrase) for phrase in PHRASES)
    named = "|".join(rf"(?P<p{place}>{phrase})" for place, phrase in enumerate(each))
    return re.compile(rf"\b(?:{named})\b", re.IGNORECASE)


LISTED: Final = listed_phrases()


def phrases(path: str, text: str) -> Iterator[str]:
    """Yield one line for each listed phrase."""
    instead = tuple(PHRASES.values())
    for match in LISTED.finditer(text):
        line, said = text.count("\n", 0, match.start()) + 1, " ".join(match[0].split())
        yield f"{path}:{line}: says “{said}”; write instead: {instead[int((match.lastgroup or 'p0')[1:])]}"


def engine_names(path: str, text: str) -> Iterator[str]:
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


def findings(path: str) -> Iterator[str]:
    """Yield one line for each finding in a file; a path outside the repository is searched for everything."""
    text = (HERE / path).read_text()
    yield from phrases(path, text)
    product = path.startswith(tuple(f"{package}/" for package in PACKAGES)) or Path(path).is_absolute()
    if product and path.endswith(".py") and not path.startswith(ENGINES_FOLDER) and path not in MIGRATIONS:
        yield from engine_names(path, text)


def files() -> list[str]:
    """Return the texts that git knows and that are not exempt."""
    command = ("git", "ls-files")
    listed = subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout  # noqa: S603
    found = (path for path in listed.splitlines() if Path(path).suffix in TEXTS and not EXEMPT.fullmatch(path))
    return [path for path in found if not (HERE / path).is_symlink() and (HERE / path).is_file()]


def main(paths: list[str]) -> int:
    """Print what is found; 1 where anything is."""
    found = [line for path in paths or files() for line in findings(path)]
    sys.stdout.writelines(f"{line}\n" for line in dict.fromkeys(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
