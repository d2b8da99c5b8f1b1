"""A whole platform runs a job of pairwise rounds, and one of two servers; then nothing secret is anywhere but in
its owner's folder."""

import base64
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.pace import Deadline
from tests.simulation.leaks import EngineSecrets, Haystack, quantised
from tests.simulation.two_servers import BothServers
from tests.simulation.watching import watching
from undersong.client import ApiError
from undersong.client.types import Job
from undersong.local import Platform
from undersong.local.forks import Forks
from undersong.local.sites import SiteFolder
from undersong.recipes.protocol import source_digest
from undersong.shared.secagg.payload import train_payload, weight_of
from undersong.shared.transparency.evidence import Evidence
from undersong.shared.vdaf.field64 import FIELD64
from undersong.shared.wire.manifest import RoundManifest

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

SITES = ("north", "east", "south", "west")
RECIPE = Path(__file__).parent / "canary_recipe.py"
NOTHING = {"datasets": [{"name": "nothing", "kind": "none", "columns": []}]}
ROUNDS = 1
ENGINES = ("pairwise", "twoserver")


class Run:
    """A job of each engine on one platform, with all that was written down meanwhile."""

    def __init__(self, platform: Platform) -> None:
        self.platform, self.home = platform, platform.home
        self.enrol_tokens: dict[str, bytes] = {}
        policy = {
            "federations": ["own"],
            "recipes": [{"name": "canary", "digest": source_digest(RECIPE)}],
            "datasets": {"nothing": {"columns": "*"}},
            "engines": ["pairwise", "sealed", "twoserver"],
        }
        for name in SITES:
            platform.add_site(name, datasets=NOTHING, policy=policy, agent={"recipes": [str(RECIPE)]}, start=False)
            self.enrol_tokens[name] = (self.home / "sites" / name / "enrol-token").read_bytes().strip()
        self.haystack = Haystack(self.home, platform.redis_url)
        for name in SITES:
            platform._start_agent(SiteFolder(self.home / "sites" / name))
        platform.wait_sites_online(len(SITES))
        made = platform.client.create_token({"name": "canary"})
        assert made.token is not None
        self.tokens = [platform.profile.token, platform.profile.operator_token, made.token]
        self.jobs: dict[str, Job] = {}
        self.updates: dict[str, list[dict[str, np.ndarray]]] = {}
        self.engine, servers = EngineSecrets(self.home, SITES), BothServers(self.home)
        with watching(self.engine.look), watching(servers.look):
            for engine in ENGINES:
                self.jobs[engine] = self._run(engine)
                kept = sorted(self.home.glob(f"sites/*/**/home/*/{engine}-*.npz"))  # each child has a home of its own
                self.updates[engine] = [dict(np.load(file)) for file in kept]
        self.servers = servers.secrets()
        self.haystack.take()
        for engine in ENGINES:
            self._take_answers(self.jobs[engine])

    def _run(self, engine: str) -> Job:
        client = self.platform.client
        job = client.submit_job({
            "name": engine, "engine": engine, "federation_id": self.platform.federation().id, "model": {"name": engine},
            "recipe": {"name": "canary", "params": {"name": engine}}, "data": {"dataset": "nothing"},
            "rounds": ROUNDS, "evaluation": {"every": 0}, "deadlines": {"round_s": 60},
        })  # fmt: skip
        deadline = Deadline(90)
        while not (job := client.job(job.id)).finished and not deadline.over():
            self.haystack.take()
            time.sleep(0.2)
        return job

    def _take_answers(self, job: Job) -> None:
        """What the services tell an administrator about the job."""
        client = self.platform.client
        rounds = client.rounds(job.id)
        for found in (client.job(job.id), client.sites(), *rounds):
            self.haystack.keep("api", repr(found).encode())
        for one in rounds:
            self.haystack.keep("api", repr(client.round(one.id)).encode())
            self.haystack.keep("api", repr(self._evidence(one.id)).encode())
        for url in self.platform.urls.values():
            self.haystack.keep("api", httpx.get(f"{url}/metrics").content)

    def _evidence(self, round_id: str) -> Evidence:
        """The record is handed to keys after the round."""
        deadline = Deadline(60)
        while True:
            try:
                return self.platform.client.evidence(round_id)
            except ApiError:
                assert not deadline.over(), "the round was never logged"
                time.sleep(0.2)

    def manifests(self, engine: str) -> list[RoundManifest]:
        bearer = {"authorization": f"Bearer {self.platform.profile.token}"}
        url = self.platform.urls["coordinator"]
        return [
            RoundManifest.model_validate(
                httpx.get(f"{url}/v1/rounds/{one.id}/manifest", headers=bearer).json()["manifest"]
            )
            for one in self.platform.client.rounds(self.jobs[engine].id)
            if one.kind == "train"
        ]

    def outside(self, places: set[str], owner: str | None = None) -> set[str]:
        """Those of the places that are not in the owner's folder; without an owner: in no site's folder."""
        own = f"sites/{owner}/" if owner else "sites/"
        return {place for place in places if not place.startswith(own)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, forks: Forks):
    with Platform(tmp_path_factory.mktemp("home"), log_level="DEBUG", forks=forks) as platform:
        made = Run(platform)
        yield made
        made.haystack.close()


def test_the_jobs_ran_and_were_watched(run: Run) -> None:
    """Or the other tests would say nothing."""
    for engine, job in run.jobs.items():
        assert job.state == "succeeded", job.reason
        assert [manifest.engine for manifest in run.manifests(engine)] == [engine] * ROUNDS
        assert len(run.updates[engine]) == ROUNDS * len(SITES)
    assert all(len(found) >= 5 * ROUNDS for found in run.engine.found.values()), run.engine.found
    kinds = {where.split("/")[0].split(":")[0] for where in run.haystack.found}
    assert {"logs", "keys", "coordinator", "aggregator", "registry", "helper", "sites", "api", "redis"} <= kinds
    assert {"logs/keys.helper.log", "helper/helper.sqlite"} <= set(run.haystack.found)
    assert any(where.endswith("sqlite-wal") for where in run.haystack.found)
    assert any(where.startswith("aggregator/") and "blobs" in where for where in run.haystack.found)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_update_of_one_site_is_anywhere(run: Run, engine: str) -> None:
    """Neither as floating-point numbers nor as integers, neither the change nor the changed model."""
    first = run.manifests(engine)[0]
    encoding = first.encoding
    assert encoding is not None
    secrets = []
    for update in run.updates[engine]:
        words = list(quantised(update["delta"], encoding.scale, weight_of(10, first), encoding.modulus_bits))
        sent = bytes(train_payload(first, update["delta"], examples=10, loss=0.25, key=bytes(32)).data)
        assert any(word in sent for word in words), "the canary is what would be sent"
        floats = [update[name][at : at + 8].tobytes() for name in update for at in range(0, 2000, 900)]
        secrets.append([*floats, *words, *(in_field(word) for word in words)])
    for places in run.haystack.places_of(secrets):
        assert run.outside(places) == set()
        assert len({place.split("/")[1] for place in places}) <= 1, "at most its own site"


def test_neither_servers_keys_or_shares_are_anywhere(run: Run) -> None:
    """Keys are sealed where they are kept; what they open is never written, not even where it is opened."""
    found = run.servers
    assert len(found.leader_keys) == 2 * ROUNDS
    assert len(found.helper_keys) == 3 * ROUNDS
    assert len(found.leader_shares) == len(found.helper_shares) == ROUNDS * len(SITES)
    assert run.haystack.places(found.leader_keys | found.helper_keys) == set()
    pieces = [share[at : at + 32] for share in found.leader_shares for at in (0, len(share) // 2 // 8 * 8)]
    pieces += [share[at : at + 16] for share in found.helper_shares for at in range(0, len(share) - 15, 16)]
    assert run.haystack.places(pieces) == set()


def test_no_key_seed_or_share_leaves_the_agents_state(run: Run) -> None:
    """Both private keys, the seed of the own mask, the shares dealt and received: while the round runs and after."""
    shares: dict[bytes, set[str]] = {}
    for name, found in run.engine.found.items():
        for secret in found:
            shares.setdefault(secret, set()).add(name)
    for name in SITES:
        alone = [secret for secret in run.engine.found[name] if shares[secret] == {name}]
        assert len(alone) >= 3 * ROUNDS
        assert run.haystack.places(alone), "seen in its own folder while it was needed"
        assert run.outside(run.haystack.places(alone), name) == set()
    assert run.outside(run.haystack.places(shares)) == set()


def test_no_private_key_of_a_site_is_anywhere_else(run: Run) -> None:
    for name in SITES:
        keys = private_keys(run.home / "sites" / name)
        assert keys
        assert run.outside(run.haystack.places(keys), name) == set()


def test_no_token_is_written_down(run: Run) -> None:
    """People's tokens stand in the operator's own folder only, sites' enrolment tokens with their site only."""
    assert run.haystack.places(token.encode() for token in run.tokens) == set()
    for name, token in run.enrol_tokens.items():
        assert run.outside(run.haystack.places([token]), name) == set()


def in_field(words: bytes) -> bytes:
    """Integers as they are split between two servers: negative ones as elements of Field64."""
    signed = np.frombuffer(words, "<i8").astype(object) if len(words) % 8 == 0 else np.zeros(0)
    return b"".join((int(value) % FIELD64.modulus).to_bytes(8, "little") for value in signed) or words


def private_keys(folder: Path) -> list[bytes]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and b"PRIVATE KEY" in (data := path.read_bytes()):
            found.append(load_pem_private_key(data, None).private_bytes_raw())  # type: ignore[union-attr]
    return found


def test_the_search_finds_what_is_there(tmp_path: Path, redis_url: str) -> None:
    """Raw, hexadecimal, base64 at any alignment; in files, in the log of a database, in Redis."""
    secret = bytes(range(7, 39))
    for prefix in (b"", b"x", b"xy"):
        (tmp_path / f"b64{len(prefix)}").write_bytes(base64.b64encode(prefix + secret + b"tail"))
    (tmp_path / "hex").write_text(f"key={secret.hex()}")
    (tmp_path / "a.sqlite-wal").write_bytes(b"page" + secret + b"page")
    haystack = Haystack(tmp_path, redis_url)
    haystack.redis.xadd("stream", {"v": secret})
    haystack.redis.set("string", secret)
    haystack.take()
    assert len(haystack.places([secret])) == 5 + 3
    stranger = secret[:16] + bytes(16)
    assert [len(places) for places in haystack.places_of([[stranger], [stranger, secret]])] == [0, 8]
    haystack.close()
