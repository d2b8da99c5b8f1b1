"""Commands as sections of a page: usage, purpose, and a table of arguments and options."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from undersong.cli import app
from undersong.reference.tables import plain, sentence, table, value
from undersong.services.agent.__main__ import parser
from undersong.services.aggregator.__main__ import PROGRAM as AGGREGATOR
from undersong.services.coordinator.__main__ import PROGRAM as COORDINATOR
from undersong.services.inference.__main__ import PROGRAM as INFERENCE
from undersong.services.keys.__main__ import CUSTODIAN_COMMANDS, CUSTODIAN_PROGRAM, HELPER_COMMANDS, HELPER_PROGRAM
from undersong.services.keys.__main__ import PROGRAM as KEYS
from undersong.services.registry.__main__ import PROGRAM as REGISTRY
from undersong.shared.web.program import Program

_TITLES = ("argument or option", "default", "meaning")


def commands() -> str:
    """Return a section for each command of `undersong`."""
    return "\n".join(_sections("undersong", typer.main.get_command(app), 1))


def _sections(name: str, command: Any, level: int) -> Iterator[str]:
    """Yield a command's own section, unless it is the first of all, and those of the commands in it."""
    inner = getattr(command, "commands", {})
    if level > 1:
        yield f"{'#' * level} `{name}`\n\n{plain(command.help or '')}\n"
    rows = [_row(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    if rows and not inner:
        yield f"```text\n{' '.join([name, *_usage(command.params)])}\n```\n"
        yield table(_TITLES, rows)
    for each, found in inner.items():
        if not found.hidden:
            yield from _sections(f"{name} {each}", found, level + 1)


def _usage(parameters: Sequence[Any]) -> Iterator[str]:
    if any(_is_option(parameter) for parameter in parameters):
        yield "[OPTIONS]"
    for parameter in parameters:
        if not _is_option(parameter):
            name = _metavar(parameter)
            yield (name if parameter.required else f"[{name}]") + "..." * (parameter.nargs != 1)


def _row(parameter: Any) -> tuple[str, str, str]:
    default = "required" if parameter.required else value(_text(parameter.default))
    if not _is_option(parameter):
        return f"`{_metavar(parameter)}`", default, sentence(parameter.help or "")
    shown = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.is_flag and parameter.default in (None, False) and not parameter.secondary_opts:
        default = "–"
    elif parameter.is_flag:
        default = f"`{(parameter.opts if parameter.default else parameter.secondary_opts)[0]}`"
    else:
        shown += f" *{_metavar(parameter).lower().replace('_', '-')}*"
    from_environment = f" Environment: `{parameter.envvar}`." if parameter.envvar else ""
    return shown, default, sentence(parameter.help or "") + from_environment


def _is_option(parameter: Any) -> bool:
    return any(name.startswith("-") for name in parameter.opts)


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.rstrip("_").upper())


def _text(default: object) -> object:
    return default if default is None or isinstance(default, bool | int | float | str | list) else str(default)


def agent_commands() -> str:
    """Return a table of the agent's commands, and one of the options of each."""
    made = parser()
    (chosen,) = (action for action in made._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    about = {action.dest: action.help or "" for action in chosen._choices_actions}  # noqa: SLF001
    rows = [(f"`{name}`", sentence(about.get(name, "")), _options(one)) for name, one in chosen.choices.items()]
    return table(("`python -m undersong.services.agent --config FILE` …", "does", "options"), rows)


def _options(one: argparse.ArgumentParser) -> str:
    shown = [
        f"`{action.option_strings[-1]}`" + (f": {plain(action.help)}" if action.help else "")
        for action in one._actions  # noqa: SLF001
        if action.dest != "help"
    ]
    return "; ".join(shown) or "–"


def service_commands() -> str:
    """Return a table of the commands of the services."""
    programs: tuple[Program[Any], ...] = (COORDINATOR, AGGREGATOR, KEYS, REGISTRY, INFERENCE)
    rows = [
        (f"`python -m undersong.services.{program.name} {name}{' --out FOLDER' * writes}`", sentence(help_text))
        for program in programs
        for name, help_text, writes in program.listed()
    ]
    rows += [(f"`python -m undersong.services.keys {name}`", sentence(text)) for name, text in _party_commands()]
    return table(("command", "does"), rows)


def _party_commands() -> Iterator[tuple[str, str]]:
    """Yield the helper's and custodians' commands by the names that the keys service's command line gives them."""
    parties: tuple[tuple[str, Program[Any], dict[str, str]], ...] = (
        ("The helper", HELPER_PROGRAM, HELPER_COMMANDS),
        ("A custodian", CUSTODIAN_PROGRAM, CUSTODIAN_COMMANDS),
    )
    for who, program, commands in parties:
        about = {name: text for name, text, _ in program.listed()}
        yield from ((name, f"{who}: {about[own]}") for name, own in commands.items())
