"""Every fault of a policy file with its line and what helps, and what of it is weaker than it need be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import ValidationError

from undersong.services.agent.domain.rules import EVERYTHING
from undersong.services.agent.policy import file as policies
from undersong.services.agent.policy.entries import PolicyFile
from undersong.services.agent.policy.file import NameFault
from undersong.services.agent.runner.protocol import Description
from undersong.shared.documents import document_faults
from undersong.shared.names import MEANT
from undersong.shared.secagg.engines import ENGINES
from undersong.shared.yaml_texts import NotYaml, lines_of, load_document

Lines = dict[tuple[str | int, ...], int]
_YAML_LINE: Final = re.compile(r"line (\d+)")
_SAFE_COHORT: Final = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a policy: a `fault` for which it is refused or allows nothing, or a `weak` choice."""

    state: Literal["fault", "weak"]
    line: int
    place: str
    message: str
    remedy: str


def lint(
    data: bytes, description: Description | None = None, same_files: Mapping[str, frozenset[str]] | None = None
) -> list[Finding]:
    """Return every finding about a policy file's bytes, by line.

    `description` is what the site has; without it names are not resolved. same_files: of a data set the others that
    read a file of it.
    """
    try:
        text = data.decode()
        raw, lines = load_document(text), lines_of(text)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return [Finding("fault", line, "", "not UTF-8", "save the file as UTF-8 text")]
    except NotYaml as error:
        found = _YAML_LINE.findall(str(error))
        return [Finding("fault", int(found[-1]) if found else 1, "", f"not YAML: {error}", "correct what it names")]
    try:
        file = PolicyFile.model_validate(raw if raw is not None else {})
    except ValidationError as error:
        return sorted(_faults(error, lines), key=_order)
    findings = [*_weak(file, lines), *_shared(file, lines, same_files or {})]
    if description is not None:
        from undersong.services.agent.site.description import name_faults

        findings += [_unresolved(fault, raw, lines) for fault in name_faults(policies.to_policy(file), description)]
    return sorted(findings, key=_order)


def _order(finding: Finding) -> tuple[int, str, str]:
    return finding.line, finding.place, finding.message


def _faults(error: ValidationError, lines: Lines) -> Iterable[Finding]:
    for fault in document_faults(error, PolicyFile):
        parts = [part.replace("~1", "/").replace("~0", "~") for part in fault.path.split("/")[1:]]
        remedy = "see docs/reference/policy.md for what may stand here"
        if fault.message == "Field required":
            remedy = f"add `{parts[-1]}`: an empty list or mapping allows nothing"
        elif MEANT in fault.message:
            remedy = "correct the name"
        yield Finding("fault", _line(lines, parts), ".".join(parts) or "(file)", fault.message, remedy)


def _line(lines: Lines, parts: Sequence[str]) -> int:
    """Return the line of the deepest part of a path that the document has; a part may be a key or an item's number."""
    path: tuple[str | int, ...] = ()
    for part in parts:
        named = (*path, part)
        numbered = (*path, int(part)) if part.isdigit() else named
        if named not in lines and numbered not in lines:
            break
        path = named if named in lines else numbered
    return lines.get(path, 1)


def _unresolved(fault: NameFault, raw: dict[str, object], lines: Lines) -> Finding:
    section = fault.section.split(".", 1)
    within = tuple(section) if section[0] in raw else ()
    line = next(
        (
            line
            for path, line in lines.items()
            if path[: len(within)] == within and (path[-1:] == (fault.name,) or _value(raw, path) == fault.name)
        ),
        lines.get(within, 1),
    )
    declared = "recipes" if section[0] == "recipes" else "datasets"
    remedy = {
        "recipes": "name a recipe that is installed here, or take the line out",
        "datasets": "name what datasets.yaml declares, or take the line out",
    }[declared]
    return Finding(
        "fault", line, fault.section, fault.message, "correct the name" if MEANT in fault.message else remedy
    )


def _value(raw: object, path: Sequence[str | int]) -> object:
    for part in path:
        if isinstance(raw, dict):
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            raw = raw[part]
        else:
            return None
    return raw


def _weak(file: PolicyFile, lines: Lines) -> Iterable[Finding]:
    """Choices that the owner may have meant, and should know about."""
    for name in (engine for engine in file.engines if ENGINES[engine].sees_updates):
        at = lines.get(("engines", file.engines.index(name)), _line(lines, ["engines"]))
        yield Finding("weak", at, "engines", f"{name}: {ENGINES[name].wording.seen_by}", "take it out if you can")
    if file.min_cohort < _SAFE_COHORT:
        said = f"sums over {file.min_cohort} sites may open: with two sites, each can subtract itself"
        yield Finding("weak", _line(lines, ["min_cohort"]), "min_cohort", said, f"put min_cohort: {_SAFE_COHORT}")
    if EVERYTHING in file.federations:
        said = "rounds of any federation are allowed"
        yield Finding("weak", _line(lines, ["federations"]), "federations", said, "name the federations, or `own`")
    for name, entry in file.datasets.items():
        if entry.columns == EVERYTHING:
            said = "all columns may be read, also those that are added later"
            yield Finding("weak", _line(lines, ["datasets", name]), f"datasets.{name}", said, "list the columns")
    yield from _weak_noise(file, lines)
    for number, rule in enumerate(file.recipes):
        if rule.digest is None and rule.signer is None:
            said = f"any installed code of the recipe {rule.name} may run"
            at = _line(lines, ["recipes", str(number)])
            yield Finding("weak", at, f"recipes.{number}", said, "add `digest` to pin one version")


def _shared(file: PolicyFile, lines: Lines, same_files: Mapping[str, frozenset[str]]) -> Iterable[Finding]:
    """Yield data sets that read the same file, where a budget is then spent by all of them."""
    told: set[frozenset[str]] = set()
    for name in file.datasets:
        group = frozenset({name, *same_files.get(name, ())})
        if len(group) == 1 or group in told or group.isdisjoint(file.privacy.budgets):
            continue
        told.add(group)
        others = ", ".join(sorted(group - {name}))
        said = f"it reads a file of other data sets ({others}): a round on any of them is spent of the budgets of all"
        at = _line(lines, ["datasets", name])
        yield Finding("weak", at, f"datasets.{name}", said, "give them one budget, or declare the rows once")


def _weak_noise(file: PolicyFile, lines: Lines) -> Iterable[Finding]:
    """Parts of `privacy` and `auto_approve` that bound less than they seem to."""
    privacy, at = file.privacy, _line(lines, ["privacy"])
    if privacy.budgets and not privacy.require:
        said = "rounds without noise are allowed beside the budgets, which say nothing about their exact sums"
        yield Finding("weak", at, "privacy.require", said, "put require: true if the budgets are meant to bound all")
    unbounded = sorted(set(file.datasets) - set(privacy.budgets))
    if privacy.require and unbounded:
        said = f"noise is required, and may be as small as a job likes: no budget for {', '.join(unbounded)}"
        yield Finding("weak", at, "privacy.budgets", said, "give each data set a budget")
    if file.auto_approve and unbounded:
        said = f"any number of such jobs is approved: no budget for {', '.join(unbounded)}"
        yield Finding("weak", _line(lines, ["auto_approve"]), "auto_approve", said, "give each data set a budget")
