"""This site as its files describe it: policy, data sets, recipes. Read at start and again when a file changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import structlog

from undersong.services.agent.domain.rules import Detail, Policy
from undersong.services.agent.policy import file as policies
from undersong.services.agent.policy.entries import PolicyFile
from undersong.services.agent.policy.signers import recipe_files
from undersong.services.agent.policy.template import default_policy
from undersong.services.agent.rounds.setup import SiteSetup
from undersong.services.agent.runner.docker import DockerLauncher
from undersong.services.agent.runner.pool import Launcher
from undersong.services.agent.runner.process import ProcessLauncher
from undersong.services.agent.runner.protocol import Description, Runner, Setup, snapshot_file
from undersong.services.agent.runner.warm import WarmRunner
from undersong.services.agent.settings import AgentSettings, ConfigError
from undersong.services.agent.site.profile import facts_of
from undersong.services.agent.site.snapshots import Snapshots
from undersong.shared.files import FileMark, file_mark, read_text, write_new
from undersong.shared.identity.owner import signature_file
from undersong.shared.identity.signed_recipes import recipe_signature_file
from undersong.shared.names import MEANT
from undersong.shared.yaml_texts import NOTHING, NotYaml, load_texts

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SNAPSHOTS: Final = "snapshots"
"""Folder of the rows of queries, in `data_dir`."""
_PATHS: Final = {None: ("path",), "split": ("validation_file", "test_file"), "images": ("folder",)}
"""Where an entry of `datasets.yaml` names files with rows, and a folder of images."""
Mark = tuple[str, FileMark | None]
OPEN_POLICY = policies.to_policy(PolicyFile(federations=[], recipes=[], datasets={}, engines=[]))


@dataclass(frozen=True, slots=True)
class Marks:
    """What the files that describe the site looked like, and those of its data sets."""

    times: tuple[Mark, ...]
    data: tuple[Mark, ...] = ()

    @classmethod
    def of(cls, settings: AgentSettings, data: Iterable[Path] = ()) -> Marks:
        """Look at the files now."""
        own = recipe_files(settings.recipes)
        signatures = map(recipe_signature_file, own)
        files = (settings.policy, signature_file(settings.policy), settings.datasets, *own, *signatures)
        return cls(tuple(map(_mark, files)), tuple(map(_mark, data)))


def _mark(path: Path) -> Mark:
    return str(path), file_mark(path)


def make_runner(settings: AgentSettings, policy: Policy) -> WarmRunner:
    """Return the runner that the settings name, under the policy's limits."""
    resources, inside = policy.resources, settings.runner == "process"
    for name in ("work", "models"):  # a rule of the kernel is about a folder that is there
        (settings.data_dir / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    setup = Setup(
        datasets=str(settings.datasets),
        recipes=tuple(str(path) for path in settings.recipes),
        allowed_digests=tuple(rule.digest for rule in policy.recipes if rule.digest is not None),
        device=settings.device,
        processes=settings.processes,
        memory_bytes=resources.memory_bytes if inside else 0,
        file_bytes=resources.file_bytes,
        disk_bytes=resources.disk_bytes,
        pids=resources.pids if inside else 0,
        cpus=resources.cpus,
        isolate_network=settings.isolate_network and inside,
        confine=inside,
        required=settings.containment == "required" and inside,
        reads=tuple(str(path) for path in (settings.data_dir / "models", *settings.recipe_reads)),
        writes=(str(settings.data_dir / "work"),),
        snapshots=str(settings.data_dir / SNAPSHOTS),
        private=(str(settings.data_dir), str(settings.data_dir / "identity")),
    )
    launcher: Launcher
    if settings.runner == "docker":
        launcher = DockerLauncher(
            settings.docker,
            resources,
            folder=settings.data_dir / "work",
            models=settings.data_dir / "models",
            device=settings.device,
        )
    else:
        launcher = ProcessLauncher(settings.data_dir)
    return WarmRunner(
        launcher,
        setup,
        taken=settings.data_dir / "taken",
        data=data_files(settings),
        idle_s=settings.child_idle_s,
        memory_bytes=resources.memory_bytes,
    )


async def ensure_policy(settings: AgentSettings, *, min_cohort: int = 3, reports: Detail = Detail.LOCATION) -> bool:
    """Write an explicit default policy where there is none; whether one was written.

    It allows the data sets that are declared now, whether their files can be read yet or not, and nothing later;
    ConfigError while none is declared. What is there, or comes meanwhile, is never replaced: it is the owner's, also a
    link that leads nowhere yet.
    """
    if _is_there(settings.policy):
        return False
    if not settings.datasets.exists():
        raise ConfigError(f"there is no {settings.datasets}: declare the data first, as docs/tutorial shows")
    runner = make_runner(settings, OPEN_POLICY)
    try:
        found = await runner.describe()
    finally:
        await runner.close()
    if found.unread and not found.declared:
        told = "; ".join(f"{name}: {reason}" for name, reason in found.unread.items())
        raise ConfigError(f"no policy is written while no data set is declared: {told}; correct {settings.datasets}")
    own = set(found.own_recipes)
    text = default_policy(
        {spec["name"]: spec["digest"] for spec in found.recipes if spec["name"] not in own},
        {schema["name"]: _columns(schema) for schema in found.declared},
        min_cohort=min_cohort,
        reports=reports,
    )
    try:
        settings.policy.parent.mkdir(parents=True, exist_ok=True)
        written = write_new(settings.policy, text)
    except OSError as error:
        raise ConfigError(f"{settings.policy}: cannot be written: {error.strerror}") from error
    if written:
        log.info("policy.written", path=str(settings.policy))
    return written


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


async def look(settings: AgentSettings, policy: Policy | None) -> Description:
    """Describe the site as its agent does, beside a running agent: in a child and a folder of its own."""
    with TemporaryDirectory(prefix="undersong-look-") as folder:
        apart = settings.model_copy(update={"data_dir": Path(folder)})
        snapshots = Snapshots(apart.datasets, apart.data_dir / SNAPSHOTS)
        await snapshots.refresh(None if policy is None else policy.datasets)
        runner = make_runner(apart, policy or OPEN_POLICY)
        try:
            found = await runner.describe()
        finally:
            await runner.close()
        return replace(found, unread=snapshots.reasons(found.unread))


def unresolved(policy: Policy, description: Description) -> list[str]:
    """Return a sentence for each name in the policy that refers to nothing here, with the names that are near."""
    return [fault.sentence for fault in name_faults(policy, description)]


def name_faults(policy: Policy, description: Description) -> list[policies.NameFault]:
    """Return each name in the policy that refers to nothing here."""
    declared = {str(schema["name"]): _columns(schema) for schema in description.declared}
    known = {**dict.fromkeys(description.unread, ()), **declared}
    recipes = {str(spec["name"]): str(spec["digest"]) for spec in description.recipes}
    return policies.unresolved(policy, known, list(recipes)) + policies.misspelt_digests(policy, recipes)


async def read_site(
    settings: AgentSettings,
    runner: Runner,
    policy: Policy,
    local_now: Callable[[], datetime],
    who: tuple[str, str],
    *,
    strict: bool = False,
    reasons: Callable[[Mapping[str, str]], dict[str, str]] = dict,
) -> tuple[SiteSetup, Description]:
    """Return the site's facts, from a child that reads recipes and data; `who` is (site id, federation id).

    `strict`, at the agent's start: raise ConfigError for names in the policy that are misspelt. A site that is at work
    goes on, and its log tells them. `reasons` completes why data sets cannot be read.
    """
    description = await runner.describe()
    description = replace(description, unread=reasons(description.unread))
    faults = unresolved(policy, description)
    if strict and (typos := [fault for fault in faults if MEANT in fault]):
        raise policies.PolicyError("\n".join(f"{settings.policy}: {fault}" for fault in typos))
    for fault in description.faults:
        log.warning("site.fault", fault=fault)
    for name, reason in description.unread.items():
        log.warning("dataset.unreadable", dataset=name, reason=reason)
    for fault in faults:
        log.warning("policy.unresolved", policy=str(settings.policy), fault=fault)
    for name in sorted({str(schema["name"]) for schema in description.datasets} - set(policy.datasets)):
        log.warning("dataset.withheld", dataset=name, reason=f"{settings.policy} does not name it")
    policy = with_same_files(policy, settings)
    for name, others in policy.privacy.same_files.items():
        log.warning(
            "dataset.same_files", dataset=name, others=sorted(others), effect="their budgets are spent together"
        )
    site = SiteSetup(
        facts=facts_of(description, *who), policy=policy, local_now=local_now, work_dir=settings.data_dir / "work"
    )
    return site, description


def _columns(schema: dict[str, object]) -> list[str]:
    columns = schema["columns"]
    assert isinstance(columns, list)  # noqa: S101 (validated by the child)
    names = [str(column["name"]) for column in columns]
    label = schema.get("label")
    return names if label is None or label in names else [*names, str(label)]


def with_same_files(policy: Policy, settings: AgentSettings) -> Policy:
    """Return a policy that knows which data sets read the same files, so that whatever is charged counts for all."""
    return replace(policy, privacy=replace(policy.privacy, same_files=same_files(data_files(settings))))


def data_files(settings: AgentSettings) -> dict[str, list[Path]]:
    """Return the files of each data set that `datasets.yaml` names; what is wrong with it, a child will say."""
    if not settings.datasets.exists():
        return {}
    base = settings.datasets.resolve().parent
    try:
        document = load_texts(read_text(settings.datasets, "utf-8-sig"))
    except (NotYaml, UnicodeDecodeError, OSError):
        return {}
    entries = document.get("datasets") if isinstance(document, dict) else None
    files: dict[str, list[Path]] = {}
    for entry in entries if isinstance(entries, list) else []:
        for path in _paths(entry) if isinstance(entry, dict) else ():
            with suppress(OSError, ValueError, RuntimeError):  # a NUL character; links that lead to each other
                files.setdefault(str(entry.get("name")), []).append((base / path).resolve())
        if isinstance(entry, dict) and entry.get("kind") == "sql" and (name := str(entry.get("name"))):
            files[name] = [snapshot_file((settings.data_dir / SNAPSHOTS).resolve(), name)]
    return files


def same_files(files: Mapping[str, Sequence[Path]]) -> dict[str, frozenset[str]]:
    """Return for each data set the others that read a file of it, or a folder around it, under whichever name.

    Links lead to one file. Rows that stand in several files, and queries over one database, are not compared.
    """
    found = {name: [(path, _identity(path)) for path in paths] for name, paths in files.items()}
    same: dict[str, frozenset[str]] = {}
    for name, mine in found.items():
        others = {other for other, theirs in found.items() if other != name and _overlap(mine, theirs)}
        if others:
            same[name] = frozenset(others)
    return same


_Place = tuple[Path, tuple[int, int] | None]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _overlap(mine: Sequence[_Place], theirs: Sequence[_Place]) -> bool:
    return any(
        one == other or one in other.parents or other in one.parents or (at is not None and at == there)
        for one, at in mine
        for other, there in theirs
    )


def _paths(entry: dict[str, Any]) -> Iterator[str]:
    """Yield the paths that an entry names, of rows and of other files of rows."""
    for part, names in _PATHS.items():
        found: Any = entry if part is None else entry.get(part)
        for name in names if isinstance(found, dict) else ():
            path = found.get(name)
            if isinstance(path, str) and path not in NOTHING:
                yield path
