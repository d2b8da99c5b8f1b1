"""The key rotation drill: every key that an operator can change is changed while rounds run, and nothing is lost."""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from tests.pace import Deadline
from undersong.client import ApiError, Client
from undersong.client.types import Job
from undersong.client.wire import client_options
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.services.agent import __main__ as agent
from undersong.services.agent.settings import load
from undersong.services.aggregator.settings import AggregatorSettings
from undersong.services.coordinator.settings import CoordinatorSettings
from undersong.services.keys.__main__ import PROGRAM as KEYS
from undersong.services.keys.settings import KeysSettings
from undersong.shared.identity.authority import Identity
from undersong.shared.web.rotation import new_seal_key, rotate_identity
from undersong.shared.web.settings import ServiceSettings

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(600)]

SITES = ("north", "east", "south")
MANY = 10_000  # more rounds than the drill lasts, on whatever machine
S = TypeVar("S", bound=ServiceSettings)
NOTHING = {"datasets": [{"name": "nothing", "kind": "none", "columns": []}]}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Platform]:
    with Platform(tmp_path_factory.mktemp("home"), tls=True, forks=forks) as running:
        for name in SITES:
            running.add_site(name, datasets=NOTHING)
        running.wait_sites_online(len(SITES))
        yield running


def _submit(platform: Platform, name: str) -> Job:
    return platform.client.submit_job(
        {
            "name": name,
            "federation_id": platform.federation().id,
            "model": {"name": name},
            "recipe": {"name": "null", "params": {"parameters": 500}},
            "data": {"dataset": "nothing"},
            "rounds": MANY,
            "evaluation": {"every": 0},
            "cohort": {"min": len(SITES)},
            "deadlines": {"round_s": 120},
        }
    )


def _published(client: Client, job: Job) -> list[int]:
    """The numbers of the training rounds that were published, each with every site in the sum."""
    rounds = client.rounds(job.id)
    return sorted(r.number for r in rounds if (r.kind, r.phase, r.got) == ("train", "published", len(SITES)))


def _two_more(client: Client, job: Job) -> list[int]:
    """Wait until two more rounds are over: what was changed before is in use, what follows happens within a round."""
    target, deadline = len(_published(client, job)) + 2, Deadline(250)
    while len(_published(client, job)) < target:
        assert not client.job(job.id).finished, client.job(job.id).reason
        assert not deadline.over(), "the rounds stopped"
        time.sleep(0.1)
    return _published(client, job)


def _settings(platform: Platform, kind: type[S], patch: pytest.MonkeyPatch) -> S:
    """A service's settings, as its commands read them."""
    name = str(kind.model_config["env_prefix"]).strip("_").lower()
    for key, value in platform._environment(name).items():
        if key.startswith(f"{name.upper()}_"):
            patch.setenv(key, value)
    return kind()


def _keyids(platform: Platform) -> dict[str, str]:
    folders = {name: platform.home / name for name in ("coordinator", "aggregator")}
    folders |= {name: platform.home / "sites" / name / "state" for name in SITES}
    return {name: Identity.load(folder / "identity").keyid for name, folder in folders.items()}


def _revoke(client: Client, name: str) -> None:
    """Revoke the token of this name."""
    url, headers = f"{client.profile.coordinator_url}/v1/tokens", {"Authorization": f"Bearer {client.profile.token}"}
    with httpx.Client(headers=headers, verify=client_options(client.profile)["verify"], timeout=30) as http:
        (found,) = (token["id"] for token in http.get(url).json()["items"] if token["name"] == name)
        assert http.delete(f"{url}/{found}").status_code in (200, 204)


def test_every_key_is_changed_while_rounds_run(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS, seal keys, identities of services and sites, people's and operators' tokens; processes die in between."""
    before = _keyids(platform)
    sealed = {name: (platform.home / "secrets" / f"{name}-seal-key").read_text() for name in ("keys", "aggregator")}
    job = _submit(platform, "drill")

    _two_more(platform.client, job)
    platform.renew_certificates()
    keys = _settings(platform, KeysSettings, monkeypatch)
    enrolled = [_settings(platform, kind, monkeypatch) for kind in (CoordinatorSettings, AggregatorSettings)]
    KEYS.run("new-seal-key", keys, None)
    for settings in enrolled:
        new_seal_key(settings)

    _two_more(platform.client, job)
    for settings in enrolled:
        rotate_identity(settings)
    for name in SITES:
        agent.rotate(load(platform.home / "sites" / name / "agent.yaml"), argparse.Namespace())
    for name in ("coordinator.worker", "aggregator.worker", "aggregator.api", "agent.north", "keys.api"):
        platform.kill(name)  # these take the new identities up at once, the others within a minute

    KEYS.run("new-operator-token", keys, tmp_path)
    old, operator = platform.profile, (tmp_path / "operator-token").read_text().strip()
    person = platform.client.create_token({"name": "next", "expires_in_s": 3600}).token or ""
    with Client(replace(old, token=person, operator_token=operator)) as client:
        _revoke(client, "bootstrap")
        published = _two_more(client, job)
        assert published == list(range(1, len(published) + 1)), "a round was lost, or a site in it"
        assert client.create_enrolment_token("site", "site_x", platform.federation().id).token
        client.cancel_job(job.id)
    with Client(old) as stale:
        with pytest.raises(ApiError):
            stale.me()
        with pytest.raises(ApiError):
            stale.create_enrolment_token("site", "site_y", platform.federation().id)
    after = _keyids(platform)
    assert all(after[name] != before[name] for name in before)
    for name, earlier in sealed.items():
        lines = (platform.home / "secrets" / f"{name}-seal-key").read_text().split()
        assert lines[1] == earlier.strip() != lines[0]
