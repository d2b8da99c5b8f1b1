"""A simulated site: the real engine, and what an agent keeps before it says it."""

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np

from tests.shared.secagg.verifiers import UNCERTIFIED
from tests.simulation.oneprocess.founding import LENGTH
from undersong.shared.identity.authority import Identity
from undersong.shared.identity.digests import content_digest
from undersong.shared.ids import RoundId, SiteId, digest_of
from undersong.shared.secagg.engine import UPLOAD, ClientRound
from undersong.shared.secagg.engines import engine_named
from undersong.shared.secagg.pairwise.uploads import MaskSignatures
from undersong.shared.secagg.payload import train_payload
from undersong.shared.wire.manifest import SignedManifest

if TYPE_CHECKING:
    from tests.simulation.oneprocess.platform import InProcessPlatform

STEPS: Final = ("advertise", "share", "check", UPLOAD, "commit", "unmask")


class Site:
    """A site with its agent: `turn` does the next thing there is to do. What it says is kept before it is said."""

    def __init__(self, platform: "InProcessPlatform", number: int, identity: Identity) -> None:
        self.platform, self.number, self.identity = platform, number, identity
        self.id = identity.subject.name
        self.engine = engine_named("pairwise").client
        self.lease: dict[str, Any] | None = None
        self.rounds: dict[str, Part] = {}
        self.receipts: dict[str, str] = {}
        self.answered: dict[tuple[str, int], str] = {}

    async def turn(self) -> None:
        """Lease, or beat and take the next step of the round that is leased."""
        with contextlib.suppress(httpx.HTTPError):
            if self.lease is None:
                await self._lease()
            elif await self._beat():
                await self._step(self.rounds[self.lease["round_id"]])

    def crash(self) -> None:
        """The agent dies: what it kept is kept."""
        self.lease = None

    async def _call(self, to: str, method: str, path: str, **options: Any) -> httpx.Response:
        async with self.platform.http(self.name, to) as http:
            return await http.request(method, path, **options)

    @property
    def name(self) -> str:
        return f"site-{self.number}"

    async def _lease(self) -> None:
        answer = await self._call("coordinator", "POST", "/v1/tasks/leases", json={"wait_s": 0})
        if answer.status_code != 200:
            return
        lease = answer.json()
        if lease["round_id"] not in self.rounds:
            signed = SignedManifest.model_validate(lease["signed_manifest"])
            witness = self.platform.founding.identities["keys"].private_key.public_key().public_bytes_raw()
            public = lease["engine_public"]["document"]["public"]
            sign = self.identity.private_key.sign
            client_round = ClientRound(signed.manifest, SiteId(self.id), public, sign, witness)
            self.rounds[lease["round_id"]] = Part(client_round, self.engine.begin(client_round, UNCERTIFIED))
        self.lease = lease

    async def _beat(self) -> bool:
        assert self.lease is not None
        body = {"lease_token": self.lease["lease_token"], "progress": 0.5, "phase": "x"}
        answer = await self._call("coordinator", "POST", f"/v1/tasks/{self.lease['task_id']}/heartbeats", json=body)
        if answer.status_code != 200 or answer.json()["state"] == "abort":
            self.lease = None
        return self.lease is not None

    async def _step(self, part: "Part") -> None:
        assert self.lease is not None
        step = next((step for step in STEPS if step not in part.done), None)
        if step is None:
            await self._complete(part)
            return
        before = STEPS[STEPS.index(step) - 1] if step != STEPS[0] else None
        if before is not None and before not in part.answers:
            path = f"/v1/rounds/{part.round_id}/steps/{before}/answer"
            answer = await self._call("aggregator", "GET", path, params={"wait_s": 0})
            if answer.status_code == 200:
                part.answers[before] = answer.content
            elif answer.status_code != 204:
                await self._give_up(answer)
            return
        answer = await self._say(part, step, part.answers.get(before or ""))
        if answer.is_success or answer.status_code == 410:
            part.done.add(step)
        else:
            await self._give_up(answer)

    async def _say(self, part: "Part", step: str, answer: bytes | None) -> httpx.Response:
        if step not in part.said:
            self._speak(part, step, answer)
        body = part.said[step]
        headers = {"content-type": "application/octet-stream", "content-digest": content_digest(body)}
        if step != UPLOAD:
            path = f"/v1/rounds/{part.round_id}/steps/{step}"
            return await self._call("aggregator", "PUT", path, content=body, headers=headers)
        headers["update-signature"] = part.signature.hex()
        path = f"/v1/rounds/{part.round_id}/updates"
        response = await self._call("aggregator", "PUT", path, content=body, headers=headers)
        if response.is_success:
            assert response.json()["digest"] == digest_of(body)
            assert self.receipts.setdefault(part.round_id, digest_of(body)) == digest_of(body)
        return response

    def _speak(self, part: "Part", step: str, answer: bytes | None) -> None:
        if step == UPLOAD:
            vector = np.zeros(LENGTH, np.float32)
            vector[self.number] = 1.0
            payload = train_payload(part.client_round.manifest, vector, examples=1, loss=0.5, key=bytes(32))
            part.state, pieces = self.engine.upload(part.client_round, part.state, answer, payload)
            part.said[step] = b"".join(bytes(piece) for piece in pieces)
            part.client_round = replace(part.client_round, body=bytes.fromhex(digest_of(part.said[step])))
            part.signature = MaskSignatures().sign(
                part.client_round, part.state, bytes.fromhex(digest_of(part.said[step]))
            )
            return
        if step == STEPS[-1]:  # what opens the sum is sent once per round of a job, whatever the attempt
            place = (part.client_round.manifest.job_id, part.client_round.manifest.number)
            assert self.answered.setdefault(place, part.round_id) == part.round_id, "opened in another attempt"
        part.state, part.said[step] = self.engine.message(part.client_round, part.state, step, answer)

    async def _complete(self, part: "Part") -> None:
        assert self.lease is not None
        body = {"lease_token": self.lease["lease_token"], "digest": digest_of(part.said[UPLOAD])}
        answer = await self._call("coordinator", "POST", f"/v1/tasks/{self.lease['task_id']}/completions", json=body)
        if answer.status_code < 500:
            self.lease = None

    async def _give_up(self, answer: httpx.Response) -> None:
        if answer.status_code < 500 and answer.status_code != 409:  # else: later
            await self.fail("round-over")

    async def fail(self, code: str) -> None:
        """Tell the coordinator that the task cannot be done."""
        assert self.lease is not None
        body = {"lease_token": self.lease["lease_token"], "code": code, "message": "x"}
        answer = await self._call("coordinator", "POST", f"/v1/tasks/{self.lease['task_id']}/failures", json=body)
        if answer.status_code < 500:
            self.lease = None


@dataclass
class Part:
    """A site's part in a round."""

    client_round: ClientRound
    state: bytes
    answers: dict[str, bytes] = field(default_factory=dict)
    said: dict[str, bytes] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    signature: bytes = b""

    @property
    def round_id(self) -> RoundId:
        return self.client_round.manifest.round_id
