"""`undersong owner …`: the key by which the owner of a site's data signs what its agent may do."""

import sys
from getpass import GetPassWarning
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from warnings import catch_warnings, simplefilter

import typer

from undersong.cli import common
from undersong.errors import UndersongError
from undersong.profile import config_folder
from undersong.shared.files import check_writable, read_text

if TYPE_CHECKING:
    from undersong.shared.identity.owner import OwnerKey

app = typer.Typer(no_args_is_help=True, help="The owner's key, which is not the agent's.")
FROM_ENVIRONMENT: Final = "UNDERSONG_OWNER_PASSPHRASE_FILE"
KeyPath = Annotated[
    Path | None,
    typer.Option("--key", help="The owner's key file; by default owner.pem in ~/.config/undersong.", dir_okay=False),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="A file with the passphrase, instead of asking.", envvar=FROM_ENVIRONMENT),
]


def default_key() -> Path:
    """Return where an owner's key is kept: beside the profiles, and so outside any agent's folder."""
    return config_folder() / "owner.pem"


def unlock(key: Path | None, passphrase_file: Path | None) -> "OwnerKey":
    """Return the owner's key, after asking for its passphrase where it is encrypted; UndersongError."""
    from undersong.shared.identity.owner import BadOwnerKey, OwnerKey, is_encrypted

    path = key or default_key()
    try:
        passphrase = _passphrase(path, passphrase_file) if is_encrypted(path) else None
        return OwnerKey.load(path, passphrase)
    except FileNotFoundError:
        raise UndersongError(
            f"there is no owner key {path}", remedy="undersong owner init, or name it: --key"
        ) from None
    except BadOwnerKey as error:
        raise UndersongError(str(error), remedy="name the right key with --key, and type its passphrase") from None


def _passphrase(path: Path, file: Path | None) -> bytes:
    if file is not None:
        return read_text(file).rstrip("\n").encode()
    return _asked(f"Passphrase of {path}")


def _asked(question: str, *, twice: bool = False) -> bytes:
    """Return what a person types; UndersongError without a terminal, as in a script."""
    try:
        with catch_warnings():
            simplefilter("ignore", GetPassWarning)  # where there is no terminal, which is said below
            said = typer.prompt(question, hide_input=True, confirmation_prompt=twice, err=True)
    except typer.Abort:
        if sys.stdin is not None and sys.stdin.isatty():
            raise  # Ctrl-C
        raise UndersongError(
            "the passphrase cannot be asked without a terminal",
            remedy=f"name a file that holds it: --passphrase-file FILE, or {FROM_ENVIRONMENT}",
        ) from None
    return str(said).encode()


@app.command()
def init(
    key: KeyPath = None,
    passphrase_file: PassphraseFile = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Do not encrypt it: who can read the file can sign.")
    ] = False,
) -> None:
    """Make an owner key, and print the lines of agent.yaml that make the agent demand its signature."""
    from undersong.shared.identity.owner import OwnerKey

    path = key or default_key()
    if path.exists() or path.is_symlink():
        raise UndersongError(f"{path} is there already", remedy="keep it, or name another place: --key FILE")
    check_writable(path)
    passphrase = b""
    if not no_passphrase:
        passphrase = (
            _passphrase(path, passphrase_file)
            if passphrase_file is not None
            else _asked("Passphrase of the new key", twice=True)
        )
        if not passphrase:
            raise UndersongError("an empty passphrase", remedy="type one, or use --no-passphrase")
    made = OwnerKey.generate()
    made.save(path, passphrase)
    common.console.print(f"{path} is written: keep a copy of it where the agent's machine cannot read", markup=False)
    _print_public(made.public)


@app.command()
def show(key: KeyPath = None, passphrase_file: PassphraseFile = None) -> None:
    """Print the public half of an owner key, as agent.yaml names it."""
    _print_public(unlock(key, passphrase_file).public)


def _print_public(public: str) -> None:
    common.complaints.print("the agent demands its signature with these lines in agent.yaml:", markup=False)
    typer.echo(f"owners:\n  keys: [{public}]\n  need: 1")
