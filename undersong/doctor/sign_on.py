"""The issuer that signs people on, as its discovery document tells it from here."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from undersong.client import Client
from undersong.client.wire import client_options
from undersong.doctor.findings import Finding, one_line
from undersong.errors import ApiError
from undersong.shared.identity.transport import proxy_of, trust
from undersong.shared.origins import is_protected

SUBJECT: Final = "sign-on"
ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})
_NEEDED: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_PAGE: Final = "docs/sign-on.md"


def examine_sign_on(client: Client) -> Iterator[Finding]:
    """Yield whether the platform's issuer answers here as the coordinator needs it; nothing where there is none."""
    try:
        issuer = client.sign_on().issuer
    except ApiError as error:
        if error.status != httpx.codes.NOT_FOUND:
            raise
        return  # a release before sign-on
    if issuer is None:
        return
    try:
        document = _discovery(client, issuer)
    except (httpx.HTTPError, ValueError) as error:
        reason = f"the issuer {issuer} gives no discovery document here: {one_line(error) or type(error).__name__}"
        yield Finding("warning", SUBJECT, reason, f"look from the coordinator's machine, and at {_PAGE}, Settings")
        return
    faults = list(faults_of(document, issuer))
    for fault in faults:
        yield Finding("fault", SUBJECT, fault, f"correct the issuer's client or COORDINATOR_OIDC_ISSUER: {_PAGE}")
    if not faults and "device_authorization_endpoint" not in document:
        yield Finding("ok", SUBJECT, f"{issuer} answers; it has no device flow for `undersong login --oidc`")
    elif not faults:
        yield Finding("ok", SUBJECT, f"{issuer} answers")


def faults_of(document: Mapping[str, Any], issuer: str) -> Iterator[str]:
    """Yield what of a discovery document keeps people from signing on."""
    if document.get("issuer") != issuer:
        yield f"the discovery document at {issuer} names the issuer {document.get('issuer')!r}"
    for name in _NEEDED:
        value = document.get(name)
        if not isinstance(value, str) or not is_protected(value):
            yield f"its {name} is {value!r}, no https address"
    told = document.get("id_token_signing_alg_values_supported")
    if isinstance(told, list) and not ALGORITHMS & {each for each in told if isinstance(each, str)}:
        yield f"it signs ID tokens by {', '.join(map(str, told))}, none of {', '.join(sorted(ALGORITHMS))}"
    methods = document.get("code_challenge_methods_supported")
    if isinstance(methods, list) and "S256" not in methods:
        yield "it does not take PKCE with S256"


def _discovery(client: Client, issuer: str) -> dict[str, Any]:
    """Return the issuer's document; trusted are the profile's authorities and the system's."""
    own = Path(client.profile.ca_file) if client.profile.ca_file else None
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    options = {**client_options(client.profile), "trust_env": proxy_of(url) is not None}
    options["verify"] = trust(own, (url,), "added")
    del options["mounts"]  # of a client for many addresses
    answer = httpx.get(url, **options)
    answer.raise_for_status()
    document = answer.json()
    if not isinstance(document, dict):
        raise ValueError("it is no object")  # noqa: TRY004  (a bad document, not a bad argument)
    return document
