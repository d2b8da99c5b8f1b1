"""A real platform of two federations with a caller in every role: what hostile requests are tried against."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.hostile.policy import NARROW
from tests.pace import Deadline
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.recipes.catalogue import load_recipe
from undersong.shared.identity.authority import Identity
from undersong.shared.identity.enrol import enrol
from undersong.shared.identity.requests import SigningAuth
from undersong.shared.ids import ModelId, digest_of
from undersong.shared.learning.tensors import Model, Schema, save
from undersong.shared.wire.manifest import VERSION_CONTEXT, version_statement

SERVICES: Final = ("coordinator", "aggregator", "keys", "registry", "helper")
PEOPLE: Final = ("admin", "scientist", "owner", "auditor")
BINARY: Final = {"content-type": "application/octet-stream"}
HOOK: Final = "http://127.0.0.1:9"  # an origin without a server
SITES: Final = ("site", "site-1", "site-2")
"""The three of the first federation."""
ALIKE: Final = ("site-2", "other-site-1", "other-site-2")
"""Sites of whose kind another one asks."""
SIGNERS: Final = ("coordinator", "aggregator", "registry")
FREE: Final = {"rate_per_s": "0", "anonymous_rate_per_s": "0", "failures_per_s": "0"}
"""Settings that switch the rate limits off: a fuzzer is no honest caller."""


class Bearer(httpx.Auth):
    """A person's token."""

    def __init__(self, token: str) -> None:
        self.token = token

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:
        request.headers["authorization"] = f"Bearer {self.token}"
        yield request


@dataclass
class Stage:
    """The callers, and the resources of the first federation.

    Callers: ``anonymous``, ``wrong-token``, ``revoked-token``, the four roles in the first federation, ``other-<role>``
    in the second, ``root`` (admin of all), ``narrow`` (root by a token with
    scopes), ``operator`` (keys' own token), ``site``, ``other-site``, and each service.
    """

    urls: dict[str, str]
    home: Path
    tokens: dict[str, str] = field(default_factory=dict)
    identities: dict[str, Identity] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    sites: dict[str, str] = field(default_factory=dict)
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30, trust_env=False))

    def auth(self, caller: str, service: str) -> httpx.Auth | None:
        """How this caller signs or shows who it is at a service."""
        if caller in self.identities:
            return SigningAuth(self.identities[caller], service)
        if caller in self.tokens:
            return Bearer(self.tokens[caller])
        if caller == "anonymous":
            return None
        raise KeyError(caller)

    @property
    def callers(self) -> tuple[str, ...]:
        """Return one caller of each kind, and a second site beside the first."""
        return ("anonymous", *self.tokens, *(name for name in self.identities if name not in ALIKE))

    def ask(self, caller: str, service: str, method: str, path: str, **more: Any) -> httpx.Response:
        """One request."""
        return self.http.request(
            method, self.urls[service] + path, auth=self.auth(caller, service) or httpx.Auth(), **more
        )

    def made(self, caller: str, service: str, method: str, path: str, **more: Any) -> dict[str, Any]:
        """One request that must succeed."""
        answer = self.ask(caller, service, method, path, **more)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return dict(answer.json()) if answer.content else {}


@contextmanager
def staged(home: Path, forks: Forks, **settings: dict[str, str]) -> Iterator[Stage]:
    """Start the platform, give every caller its credential, and put one of everything into the first federation."""
    settings.setdefault("coordinator", {}).setdefault("webhook_origins", HOOK)
    chosen = {name: {**FREE, **settings.get(name, {})} for name in SERVICES}
    with Platform(home, log_level="WARNING", settings=chosen, forks=forks) as platform:
        stage = Stage({**platform.urls, "helper": platform._running().url("helper")}, home)
        try:
            stage.tokens = {
                "wrong-token": "ust_" + "A" * 43,
                "root": platform.profile.token,
                "operator": platform.profile.operator_token,
            }
            for name in SIGNERS:
                stage.identities[name] = Identity.load(home / name / "identity")
            _federation(stage, "first", "")
            _federation(stage, "second", "other-")
            _revoked(stage)
            narrow = {"name": "narrow", "scopes": list(NARROW)}
            stage.tokens["narrow"] = stage.made("root", "coordinator", "POST", "/v1/tokens", json=narrow)["token"]
            _site(stage, stage.ids["federation_id"], "victim", "site_id")
            stage.ids["keyid"] = stage.identities.pop("victim").keyid  # a fuzzing operator may revoke it
            _webhook(stage)
            _job(stage)
            _schedule(stage)
            _waiting_action(stage)
            stage.ids["invitation_id"] = stage.made(
                "coordinator", "keys", "POST", "/v1/invitations", json=invitation(stage.ids)
            )["id"]
            _sweep(stage)
            _version(stage)
            yield stage
        finally:
            stage.http.close()


def _federation(stage: Stage, name: str, prefix: str) -> None:
    made = stage.made("root", "coordinator", "POST", "/v1/federations", json={"name": name})
    federation = stage.ids[f"{prefix}federation_id"] = made["id"]
    for role in PEOPLE:
        user = {"name": f"{name}-{role}", "roles": [{"role": role, "federation_id": federation}]}
        made = stage.made("root", "coordinator", "POST", "/v1/users", json=user)
        token = {"name": "test", "user_id": made["id"]}
        stage.ids[f"{prefix}{role}"] = made["id"]
        stage.tokens[f"{prefix}{role}"] = stage.made("root", "coordinator", "POST", "/v1/tokens", json=token)["token"]
    for number in range(3):
        _site(stage, federation, f"{prefix}site" + (f"-{number}" if number else ""), f"{prefix}site_id")


def _site(stage: Stage, federation: str, name: str, id_name: str) -> None:
    body = {"name": name, "owner": f"{name} hospital"}
    site = stage.made("root", "coordinator", "POST", f"/v1/federations/{federation}/sites", json=body)["id"]
    wanted = {"kind": "site", "name": site, "federation_id": federation}
    token = stage.made("operator", "keys", "POST", "/v1/enrolment-tokens", json=wanted)["token"]

    async def join() -> Identity:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await enrol(http, stage.urls["keys"], token, Ed25519PrivateKey.generate())

    stage.identities[name] = asyncio.run(join())
    stage.ids.setdefault(id_name, site)
    stage.sites[name] = site
    stage.made(name, "coordinator", "PUT", "/v1/sites/self/profile", json=profile())


def profile() -> dict[str, Any]:
    """A site that can only do nothing."""
    return {
        "agent_version": "0.1.0",
        "protocol": 1,
        "recipes": [load_recipe("null").spec.model_dump(mode="json")],
        "datasets": [{"name": "nothing", "kind": "none", "columns": [], "label": None, "rows": 0}],
        "hardware": {"cpus": 2, "memory_bytes": 4_000_000_000, "gpus": [], "device": "cpu"},
        "runner": "process",
    }


def _revoked(stage: Stage) -> None:
    made = stage.made("scientist", "coordinator", "POST", "/v1/tokens", json={"name": "lost"})
    stage.ids["token_id"], stage.tokens["revoked-token"] = made["id"], made["token"]
    stage.ask("scientist", "coordinator", "DELETE", f"/v1/tokens/{made['id']}")


def _webhook(stage: Stage) -> None:
    """A webhook at an address without a server, with a message on its way there."""
    path = f"/v1/federations/{stage.ids['federation_id']}/webhooks"
    made = stage.made("root", "coordinator", "POST", path, json={"url": HOOK, "events": ["job.failed"]})
    stage.ids["webhook_id"] = made["id"]
    stage.ids["delivery_id"] = stage.made("root", "coordinator", "POST", f"/v1/webhooks/{made['id']}/tests")["id"]


def _schedule(stage: Stage) -> None:
    """A schedule whose time comes once a year."""
    body = {"document": job(stage.ids["federation_id"], "yearly"), "cron": "0 0 1 1 *"}
    stage.ids["schedule_id"] = stage.made("scientist", "coordinator", "POST", "/v1/schedules", json=body)["id"]


def _waiting_action(stage: Stage) -> None:
    """A user whom only root may change, and what the owner asked for while the two-person rule was on."""
    federation = stage.ids["federation_id"]
    leaver = {"name": "leaver", "roles": [{"role": "auditor", "federation_id": federation}]}
    stage.ids["user_id"] = stage.made("root", "coordinator", "POST", "/v1/users", json=leaver)["id"]
    stage.ids["action_id"] = "act_01k5z0000000000000000000000"
    row = {
        "id": stage.ids["action_id"], "action": "site.suspend", "subject": stage.sites["victim"], "name": "victim",
        "federation_id": federation, "data": "{}", "reason": "", "state": "waiting",
        "requested_by": stage.ids["owner"], "requester": "first-owner", "requested_at": "2026-01-01 00:00:00.000000",
        "expires_at": "2099-01-01 00:00:00.000000",
    }  # fmt: skip
    with closing(sqlite3.connect(stage.home / "coordinator" / "coordinator.sqlite")) as database, database:
        names = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        database.execute(f"INSERT INTO pending_actions ({names}) VALUES ({marks})", [*row.values()])


def invitation(ids: dict[str, str]) -> dict[str, Any]:
    """What the coordinator asks the keys service for when a person invites a site."""
    return {"site_id": ids["site_id"], "federation_id": ids["federation_id"], "invited_by": "root"}


def sweep(federation: str, name: str) -> dict[str, Any]:
    """A sweep whose jobs wait for sites that never come."""
    return {"name": name, "document": job(federation, "tried"), "changes": [{"rounds": 1}, {"rounds": 2}]}


def _sweep(stage: Stage) -> None:
    body = sweep(stage.ids["federation_id"], "rounds")
    stage.ids["sweep_id"] = stage.made("scientist", "coordinator", "POST", "/v1/sweeps", json=body)["id"]


def job(federation: str, name: str) -> dict[str, Any]:
    """A job whose rounds wait for sites that never come."""
    return {
        "name": name, "federation_id": federation, "model": {"name": name},
        "recipe": {"name": "null", "params": {"parameters": 10}}, "data": {"dataset": "nothing"},
        "rounds": 3, "evaluation": {"every": 0}, "deadlines": {"round_s": 3600}, "engine": "sealed",
    }  # fmt: skip


def _job(stage: Stage) -> None:
    """One job that has ended, one whose round is open with a task leased by the first site."""
    federation = stage.ids["federation_id"]
    _are_there(stage)
    ended = stage.made("scientist", "coordinator", "POST", "/v1/jobs", json=job(federation, "ended"))
    stage.ids["ended_job_id"] = ended["id"]
    stage.made("scientist", "coordinator", "POST", f"/v1/jobs/{ended['id']}/cancel")
    running = stage.made("scientist", "coordinator", "POST", "/v1/jobs", json=job(federation, "running"))
    stage.ids["job_id"] = running["id"]
    lease = _lease(stage)
    stage.ids |= {"task_id": lease["task_id"], "lease_token": lease["lease_token"]}
    stage.ids["round_id"] = lease["round_id"]
    stage.ids["model_id"] = lease["signed_manifest"]["manifest"]["model_id"]


def _lease(stage: Stage) -> dict[str, Any]:
    """Return the task of the open round. The round draws its sites: the one drawn is the stage's site from now on."""
    deadline = Deadline(100)
    while not deadline.over():
        for caller in SITES:
            answer = stage.ask(caller, "coordinator", "POST", "/v1/tasks/leases", json={"wait_s": 1})
            if answer.status_code == 200:
                for known in (stage.identities, stage.sites):
                    _swap(known, "site", caller)
                stage.ids["site_id"] = stage.sites["site"]
                return dict(answer.json())
    raise AssertionError(f"no task came: {answer.status_code} {answer.text}")


def _swap(known: dict[str, Any], one: str, other: str) -> None:
    known[one], known[other] = known[other], known[one]


def _are_there(stage: Stage) -> None:
    """A site that has not asked for work lately is away, and a round waits for those who are there."""
    for caller in SITES:
        stage.ask(caller, "coordinator", "POST", "/v1/tasks/leases", json={"wait_s": 0})


def _version(stage: Stage) -> None:
    """A version with an alias, published by the aggregator."""
    arrays = {"weights": np.ones(4, np.float32)}
    data = save(Model(Schema.of(arrays), arrays))
    digest, model_id, by = digest_of(data), ModelId(stage.ids["model_id"]), stage.identities["aggregator"]
    blob = f"/v1/blobs/{digest}?federation_id={stage.ids['federation_id']}"
    stage.made("aggregator", "registry", "PUT", blob, content=data, headers=BINARY)
    lineage = {"kind": "train", "job_id": "job_1", "round_id": "rnd_1", "parents": []}
    statement = version_statement(model_id, digest, lineage)
    body = {
        "content_digest": digest, "lineage": lineage, "publisher_keyid": by.keyid,
        "publisher_signature": by.sign(VERSION_CONTEXT, statement[len(VERSION_CONTEXT) :]).hex(),
    }  # fmt: skip
    made = stage.made("aggregator", "registry", "POST", f"/v1/models/{model_id}/versions", json=body)
    stage.ids |= {"version_id": made["id"], "digest": digest, "alias": "champion"}
    own = {"federation_id": stage.ids["other-federation_id"], "name": "theirs"}
    stage.ids["other-model_id"] = stage.made("other-scientist", "registry", "POST", "/v1/models", json=own)["id"]
    alias = {"version_id": made["id"]}
    stage.made("scientist", "registry", "PUT", f"/v1/models/{model_id}/aliases/champion", json=alias)
