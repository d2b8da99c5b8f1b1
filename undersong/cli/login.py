"""`undersong login` and `undersong logout`: a platform and its token, given or by a sign-on in a browser (RFC 8628)."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from undersong.cli import common
from undersong.client import Client
from undersong.client.types import DeviceSignOn
from undersong.errors import ApiError, ProfileError, UndersongError
from undersong.profile import DEFAULT_NAME, Profile, read_profiles, save_profile
from undersong.shared.files import read_input
from undersong.shared.origins import is_protected

BESIDE = "Default: the same host at its usual port, or the same address where the coordinator has another."
SLOWER_S = 5  # RFC 8628, section 3.5


def login(
    coordinator_url: Annotated[str, typer.Option("--coordinator-url", help="For example https://fl.example.org.")],
    registry_url: Annotated[str | None, typer.Option(help=BESIDE)] = None,
    keys_url: Annotated[str | None, typer.Option(help=BESIDE)] = None,
    aggregator_url: Annotated[str | None, typer.Option(help=BESIDE)] = None,
    token_file: Annotated[Path | None, typer.Option(exists=True, help="A file with your API token.")] = None,
    oidc: Annotated[
        bool, typer.Option("--oidc", help="Sign on in a browser, by the platform's issuer, in place of a token.")
    ] = False,
    operator_token_file: Annotated[
        Path | None, typer.Option(exists=True, help="A file with keys' operator token.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(exists=True, help="Whom to trust behind https (PEM).", envvar="UNDERSONG_CA_FILE")
    ] = None,
    ca_trust: Annotated[
        str,
        typer.Option(help="only: --ca-file alone; added: the system's authorities too.", envvar="UNDERSONG_CA_TRUST"),
    ] = "only",
    profile: Annotated[str, typer.Option("--profile", help="Store it under this name.")] = DEFAULT_NAME,
) -> None:
    """Store where a platform is and your token for it; asks for the token when no file is given."""
    if oidc and token_file:
        raise UndersongError("--oidc and --token-file are given", remedy="leave one of them out")
    token = "" if oidc else _secret(token_file) if token_file else typer.prompt("API token", hide_input=True)
    if not token and not oidc:
        raise ProfileError("an empty token", remedy="undersong token create makes one")
    if ca_trust not in ("only", "added"):
        raise UndersongError(f"--ca-trust {ca_trust}", remedy="--ca-trust only, or --ca-trust added")
    urls: dict[str, Any] = {
        "coordinator_url": coordinator_url,
        "aggregator_url": aggregator_url or _beside(coordinator_url, 7002),
        "keys_url": keys_url or _beside(coordinator_url, 7003),
        "registry_url": registry_url or _beside(coordinator_url, 7004),
    }
    fresh = replace(
        read_profiles().get(profile, Profile()),
        **{key: url.rstrip("/") for key, url in urls.items()},
        token=token,
        operator_token=_secret(operator_token_file) if operator_token_file else "",
        ca_file=str(ca_file.resolve()) if ca_file else "",
        ca_trust="" if ca_trust == "only" else ca_trust,
        home="",
    )
    if oidc:
        fresh = replace(fresh, token=_sign_on(fresh))
    path = save_profile(fresh, profile)
    common.console.print(f"stored as {profile!r} in {path}")
    with common.connect(profile) as client:
        me = client.me()
        common.console.print(f"signed in: {common.text(me.model_dump(mode='json'))}")


def logout(
    profile: Annotated[str, typer.Option("--profile", help="The stored profile.")] = DEFAULT_NAME,
) -> None:
    """Forget a profile's token; one that a sign-on made is revoked, one made by hand is not (`token revoke`)."""
    found = read_profiles().get(profile)
    if found is None or not found.token:
        raise ProfileError(f"no token is stored as {profile!r}", remedy="undersong login stores one")
    try:
        with Client(found) as client:
            client.end_sign_on()
    except ApiError as error:
        if error.status not in (httpx.codes.UNAUTHORIZED, httpx.codes.NOT_FOUND):  # it had ended, or an older release
            raise
    save_profile(replace(found, token=""), profile)
    common.console.print(f"{profile!r} has no token any more", markup=False)


def _sign_on(profile: Profile) -> str:
    """Return the token of a sign-on that the person confirms in a browser; raises UndersongError without one."""
    with Client(profile) as client:
        if client.sign_on().issuer is None:
            remedy = "an administrator makes a token: undersong token create NAME"
            raise UndersongError(f"no issuer signs people on at {profile.coordinator_url}", remedy=remedy)
        begun = client.begin_sign_on()
        if not is_protected(begun.verification_uri):
            raise UndersongError(f"{begun.verification_uri} is no https address", remedy="ask the platform's operator")
        common.console.print(f"Open {begun.verification_uri} and enter the code {begun.user_code}", markup=False)
        if begun.verification_uri_complete:
            common.console.print(f"or open {begun.verification_uri_complete}", markup=False, soft_wrap=True)
        return _confirmed(client, begun)


def _confirmed(client: Client, begun: DeviceSignOn) -> str:
    """Ask until the person has confirmed the code; return the token."""
    wait_s, until = begun.interval_s, time.monotonic() + begun.expires_in_s
    while time.monotonic() < until:
        time.sleep(wait_s)
        answer = client.finish_sign_on(begun.handle)
        if answer.token is not None:
            if answer.token.expires_at is not None:
                common.console.print(f"signed on until {answer.token.expires_at:%Y-%m-%d %H:%M} UTC")
            return answer.token.token or ""
        wait_s += SLOWER_S if answer.state == "slower" else 0
    raise UndersongError("the code was not confirmed in time", remedy="undersong login --oidc, once more")


def _secret(file: Path) -> str:
    """Return a token in a file or pipe."""
    try:
        return read_input(file).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UndersongError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from error


def _beside(coordinator_url: str, port: int) -> str:
    """Return where another service is, told by where the coordinator is."""
    base = coordinator_url.rstrip("/")
    return f"{base.removesuffix(':7001')}:{port}" if base.endswith(":7001") else base
