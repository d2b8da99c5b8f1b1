"""Keycloak's realm and the compose file with it, as documents: they name what the coordinator does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from undersong.services.coordinator.dashboard.session import PATH
from undersong.services.coordinator.dashboard.sign_on_pages import CALLBACK
from undersong.services.coordinator.settings import CoordinatorSettings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.fixture(scope="module")
def client() -> dict[str, Any]:
    return dict(realm()["clients"][0])


def realm() -> dict[str, Any]:
    return dict(json.loads((DEPLOY / "keycloak" / "realm.json").read_text()))


def services() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.sso.yml").read_text())["services"])


def default(value: str) -> str:
    """A variable's default, as compose takes it: up to the brace that ends it."""
    found = re.fullmatch(r"\$\{\w+:?-(.*)\}", value, re.DOTALL)
    return found[1] if found else value


def test_the_realms_client_is_the_one_that_signs_people_on(client: dict[str, Any]) -> None:
    origin = "${UNDERSONG_PUBLIC_URL}"
    assert client["redirectUris"] == [origin + CALLBACK]
    assert client["attributes"]["post.logout.redirect.uris"] == f"{origin}{PATH}/login"
    assert client["attributes"]["pkce.code.challenge.method"] == "S256"
    assert client["attributes"]["oauth2.device.authorization.grant.enabled"] == "true"
    assert (client["publicClient"], client["implicitFlowEnabled"], client["directAccessGrantsEnabled"]) == (False,) * 3
    assert client["secret"].startswith("${"), "made at the first start, in no file of the tree"
    mapper = client["protocolMappers"][0]["config"]
    assert mapper["claim.name"] == CoordinatorSettings.model_fields["oidc_groups_claim"].default
    assert (mapper["id.token.claim"], mapper["full.path"]) == ("true", "false")


def test_the_compose_files_settings_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {name: default(value) for name, value in services()["coordinator-api"]["environment"].items()}
    for name in ("COORDINATOR_OIDC_CLIENT_SECRET_FILE", "COORDINATOR_OIDC_CA_FILE"):
        (tmp_path / name).write_text("x")
        told[name] = str(tmp_path / name)
    for name, value in {**told, "COORDINATOR_PUBLIC_URL": "https://localhost:7001"}.items():
        monkeypatch.setenv(name, value)
    found = CoordinatorSettings()
    assert set(found.oidc_roles) == {group["name"] for group in realm()["groups"]}
    assert found.oidc_issuer.endswith(f"/realms/{realm()['realm']}")
    assert found.oidc_issuer.startswith(default(services()["keycloak"]["environment"]["KC_HOSTNAME"]))


def test_keycloak_starts_only_where_it_is_asked_for_and_with_limits() -> None:
    keycloak = services()["keycloak"]
    assert keycloak["profiles"] == ["sso"]
    assert keycloak["cap_drop"] == ["ALL"]
    assert {"cpus", "mem_limit", "pids_limit", "security_opt"} <= set(keycloak)
    assert not [name for name in keycloak["environment"] if "PASSWORD" in name or "SECRET" in name]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"OIDC_ISSUER": "http://id.example.org"}, "must be https"),
        ({"OIDC_CLIENT_ID": ""}, "oidc_client_id is not"),
        ({"OIDC_ROLES": ""}, "oidc_roles is not"),
        ({"OIDC_SCOPES": "profile"}, "must have openid"),
        ({"PUBLIC_URL": "http://fl.example.org"}, "must be https"),
        ({"OIDC_ROLES": '{"fl-admins": "root"}'}, "Input should be"),
        ({"OIDC_CLIENT_SECRET_FILE": "/no/such/file"}, "there is no file"),
        ({"OIDC_SESSION_S": "86400"}, "less than or equal"),
    ],
)
def test_settings_that_protect_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], said: str
) -> None:
    good = {"OIDC_ISSUER": "https://id.example.org", "OIDC_CLIENT_ID": "x", "OIDC_ROLES": '{"a": "admin"}'}
    for name, value in {**good, "PUBLIC_URL": "https://fl.example.org", **changed}.items():
        monkeypatch.setenv(f"COORDINATOR_{name}", value)
    with pytest.raises(ValueError, match=said):
        CoordinatorSettings()
