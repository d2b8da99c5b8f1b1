"""`undersong policy …`: what a site's owner allows: checked, explained, compared and signed."""

import asyncio
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from undersong.cli import common, owners
from undersong.errors import UndersongError
from undersong.shared.files import read_bytes

if TYPE_CHECKING:
    from undersong.services.agent.policy.entries import PolicyFile
    from undersong.services.agent.runner.protocol import Description
    from undersong.services.agent.site.policy_lint import Finding

app = typer.Typer(no_args_is_help=True, help="A site's policy.yaml: check, explain and compare it.")
PolicyPath = Annotated[Path, typer.Argument(dir_okay=False, help="A policy.yaml.")]


@app.command()
def lint(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", dir_okay=False, help="Files of policies.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="The agent.yaml of the site whose names are resolved; by default the one beside the file."
        ),
    ] = None,
    names: Annotated[
        bool, typer.Option("--names/--no-names", help="Resolve data sets, columns and recipes at the site.")
    ] = True,
    as_json: common.AsJson = False,
) -> None:
    """Print every fault of policies with its line and what helps; exits with 1 where there is a fault."""
    from undersong.services.agent.site import policy_lint

    found: dict[Path, list[Finding]] = {}
    for file in files:
        data = read_bytes(file)
        at = config or file.with_name("agent.yaml")
        site, same = _described(at, asked=config is not None) if names else (None, {})
        found[file] = policy_lint.lint(data, site, same)
    if as_json:
        rows = [{"file": str(file), **asdict(each)} for file, findings in found.items() for each in findings]
        common.print_json(rows)
    else:
        for file, findings in found.items():
            _print(file, findings)
    if any(each.state == "fault" for findings in found.values() for each in findings):
        raise typer.Exit(1)


def _described(config: Path, *, asked: bool) -> "tuple[Description | None, dict[str, frozenset[str]]]":
    """Return what the site of an agent.yaml has, and which data sets read the same files.

    None, and a line about it, where that cannot be read.
    """
    if not asked and not config.exists():
        return None, {}
    from undersong.services.agent.domain.rules import TaskFailure
    from undersong.services.agent.settings import ConfigError, load
    from undersong.services.agent.site.description import data_files, look, same_files

    common.quiet_logs()
    try:
        settings = load(config)
        return asyncio.run(look(settings, None)), same_files(data_files(settings))
    except (ConfigError, TaskFailure) as error:
        said = f"names are not resolved: {getattr(error, 'detail', None) or error}"
        if asked:
            raise UndersongError(said, remedy=f"correct {config}, or use --no-names") from None
        common.complaints.print(said, markup=False)
        return None, {}


def _print(file: Path, findings: "list[Finding]") -> None:
    for each in findings:
        place = f" {each.place}:" if each.place else ""
        line = f"{file}:{each.line}: {each.state}:{place} {each.message}; {each.remedy}"
        common.console.print(line, markup=False, soft_wrap=True)
    if not findings:
        common.console.print(f"{file}: no fault", markup=False, soft_wrap=True)


@app.command()
def explain(file: PolicyPath, as_json: common.AsJson = False) -> None:
    """Print in plain sentences what a policy allows to whom, and what it does not."""
    from undersong.services.agent.policy import explain as sentences

    allowed, refused = sentences.explain(_read(file))
    _print_sides({"allowed": allowed, "refused": refused}, as_json=as_json)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(dir_okay=False, help="The policy of before.")],
    new: Annotated[Path, typer.Argument(dir_okay=False, help="The policy of after.")],
    as_json: common.AsJson = False,
) -> None:
    """Print what becomes allowed by a new policy, and what is no longer allowed; exits with 1 where they differ."""
    from undersong.services.agent.policy import explain as sentences

    more, less = sentences.diff(_read(old), _read(new))
    _print_sides({"becomes allowed": more, "no longer allowed": less}, as_json=as_json)
    if more or less:
        raise typer.Exit(1)


@app.command()
def sign(
    file: PolicyPath = Path("policy.yaml"),
    key: owners.KeyPath = None,
    passphrase_file: owners.PassphraseFile = None,
) -> None:
    """Sign a policy as the owner: the exact bytes of the file, in FILE.sig beside it. Read the file first."""
    from undersong.shared.identity.owner import sign_policy

    data = read_bytes(file)
    _parsed(file, data)
    unlocked = owners.unlock(key, passphrase_file)
    signed = sign_policy(file, data, unlocked, int(time.time() * 1000))
    count = len(signed.signatures)
    common.console.print(
        f"{file} is signed by {unlocked.public} ({count} signature{'s' * (count != 1)}, serial {signed.serial})",
        markup=False,
        soft_wrap=True,
    )


@app.command()
def schema() -> None:
    """Print the JSON schema of policy.yaml, for editors."""
    from undersong.services.agent.policy.entries import PolicyFile

    common.print_json(PolicyFile.model_json_schema())


def _read(file: Path) -> "PolicyFile":
    return _parsed(file, read_bytes(file))


def _parsed(file: Path, data: bytes) -> "PolicyFile":
    from undersong.services.agent.policy import file as policies

    try:
        return policies.parse(file, data)
    except policies.PolicyError as error:
        first, *more = str(error).splitlines()
        failure = UndersongError(first, remedy=f"undersong policy lint {common.quoted(file)}")
        for line in more:
            failure.add_note(line)
        raise failure from None


def _print_sides(sides: dict[str, list[str]], *, as_json: bool) -> None:
    if as_json:
        common.print_json(sides)
        return
    for title, sentences in sides.items():
        common.console.print(f"{title}:", style="bold", markup=False)
        for sentence in sentences or ["nothing"]:
            common.console.print(f"  {sentence}", markup=False, soft_wrap=True)
