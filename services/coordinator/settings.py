"""The coordinator's settings: ``COORDINATOR_…`` in the environment, or files in /run/secrets."""

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from undersong.shared.origins import is_protected, origin_of
from undersong.shared.web.settings import ServiceSettings, settings_config

_Role = Literal["admin", "scientist", "owner", "auditor"]
_HALF_DAY_S: Final = 43_200.0


class CoordinatorSettings(ServiceSettings):
    """Beside what every service has, the platform's only three times."""

    model_config = settings_config("coordinator")

    port: int = Field(7001, description="Port that is listened on")
    heartbeat_s: float = Field(
        10.0,
        gt=0,
        le=600,
        description="Seconds between two signs of life of an agent with a task; an abort reaches it within this time",
    )
    lease_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds that a task stays with an agent without a sign of life: three heartbeats, of which two "
        "may be lost",
    )
    round_deadline_s: float = Field(
        600.0, ge=1, le=7 * 86_400, description="Seconds for a round of a job that sets no deadline"
    )
    public_aggregator_url: str | None = Field(
        None, description="Base address by which sites reach the aggregator, for start kits; none: as this service does"
    )
    public_keys_url: str | None = Field(None, description="The same of the keys service")
    public_registry_url: str | None = Field(None, description="The same of the registry")
    two_persons: bool = Field(
        False,
        description="Whether a second person confirms what cannot easily be undone: suspending a site, revoking a user "
        "or another's token, changing roles",
    )
    confirm_within_s: int = Field(
        86_400, ge=60, le=30 * 86_400, description="Seconds in which the second person must confirm"
    )
    webhook_origins: str = Field(
        "",
        description="Origins to which webhooks may be sent, with commas between: https://hooks.example.org, or with a "
        "port; empty: none",
    )
    webhook_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities that are trusted behind webhooks' https addresses; none: the system's",
    )

    oidc_issuer: str = Field(
        "", description="Issuer that signs people on (OpenID Connect), as its discovery document names it; empty: none"
    )
    oidc_client_id: str = Field("", description="This platform's client id at the issuer")
    oidc_client_secret_file: Path | None = Field(
        None, description="File of the client's secret; none: a public client, which PKCE alone protects"
    )
    oidc_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities that are trusted behind the issuer's addresses; none: the system's",
    )
    oidc_scopes: str = Field("openid profile", description="Scopes that the issuer is asked for")
    oidc_groups_claim: str = Field("groups", min_length=1, description="Claim of the ID token with a person's groups")
    oidc_roles: dict[str, _Role | dict[_Role, str | list[str]]] = Field(
        {},
        description="What groups give, as JSON: a role in all federations, or roles with federations by name: "
        '{"fl-admins": "admin", "fl-science": {"scientist": ["heart"]}}',
    )
    oidc_session_s: float = Field(
        28_800.0,
        ge=60,
        le=_HALF_DAY_S,
        description="Seconds until a sign-on ends, at the dashboard and for the command line; groups are read again "
        "at the next",
    )

    @property
    def own_origin(self) -> str:
        """The address by which people reach the API and the dashboard."""
        return self.public_url or self.coordinator_url

    @property
    def site_urls(self) -> dict[str, str]:
        """Where sites reach the services, by name."""
        return {
            "coordinator": self.public_url or self.coordinator_url,
            "aggregator": self.public_aggregator_url or self.aggregator_url,
            "keys": self.public_keys_url or self.keys_url,
            "registry": self.public_registry_url or self.registry_url,
        }

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of `webhook_origins`."""
        return tuple(each.strip() for each in self.webhook_origins.split(",") if each.strip())

    @field_validator("webhook_origins")
    @classmethod
    def _are_origins(cls, listed: str) -> str:
        for each in (part.strip() for part in listed.split(",") if part.strip()):
            if origin_of(each) != each:
                raise ValueError(f"{each!r} is no origin; {origin_of(each)} would be one")
        return listed

    @field_validator("oidc_client_secret_file", "oidc_ca_file")
    @classmethod
    def _is_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"there is no file {path}")
        return path

    @model_validator(mode="after")
    def _sign_on_is_whole(self) -> Self:
        if not self.oidc_issuer:
            return self
        for name, value in (("oidc_client_id", self.oidc_client_id), ("oidc_roles", self.oidc_roles)):
            if not value:
                raise ValueError(f"oidc_issuer is set, and {name} is not")
        if "openid" not in self.oidc_scopes.split():
            raise ValueError("oidc_scopes must have openid")
        for name in ("oidc_issuer", "own_origin"):
            url: str = getattr(self, name)
            if not is_protected(url):
                raise ValueError(f"{url} must be https for sign-on, or on this machine")
        return self
