"""The coordinator's neighbours, as it needs them: aggregator, registry and keys, over signed requests."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import Conflict, NotFound, Unavailable
from shared.ids import Digest, FederationId, ModelId, RoundId, SiteId, VersionId
from shared.telemetry.traces import current_trace
from shared.transparency.documents import LoggedRecord
from shared.wire.manifest import DataRef, LogHead, SignedManifest

_AWAY: Final = frozenset({429, 500, 502, 503, 504, 507})


class PartyAway(Unavailable):
    """Another service of the platform cannot be reached."""


class PartyRefused(Conflict):
    """Another service of the platform refused."""


class _Answer(BaseModel):
    """Other services may say more than we know of."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class RoundResult(_Answer):
    """What the aggregator published: a version, or the values of summed statistics."""

    version_id: VersionId | None = None
    digest: Digest | None = None
    vector_length: int | None = None
    count: int = 0
    weight: float | None = None
    loss: float | None = None
    clipped: int | None = None
    values: list[float] | None = None
    metrics_layout: str | None = None


class Rejection(_Answer):
    """An update that the aggregator accepted and could not use."""

    site_id: SiteId
    code: str
    message: str | None = None


class Fault(_Answer):
    """What a site did against the engine's protocol in a round."""

    site_id: SiteId
    code: str
    message: str


class RoundReport(_Answer):
    """A round as the aggregator sees it: whose updates stand, and whose could not be used."""

    id: RoundId
    state: str
    reason: str | None = None
    opening: bool = False
    step: str | None = None
    got: int = 0
    accepted: list[SiteId] = []
    rejections: list[Rejection] = []
    faults: list[Fault] = []
    result: RoundResult | None = None


class _Model(_Answer):
    id: ModelId
    name: str = ""
    federation_id: FederationId | None = None


class _Models(_Answer):
    items: list[_Model]
    next: str | None = None


class _Certificate(_Answer):
    certificate_pem: str


class CertificateFacts(_Answer):
    """A certificate in the directory of keys."""

    keyid: Digest
    kind: str
    name: str
    federation_id: str | None = None
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None = None
    reason: str | None = None


class _Directory(_Answer):
    items: list[CertificateFacts]
    next: str | None = None


class _Certificates(_Answer):
    items: list[_Certificate]
    next: str | None = None


class VersionFacts(_Answer):
    """A model version in the registry."""

    id: VersionId
    federation_id: FederationId
    content_digest: Digest
    deleted_at: datetime | None = None
    lineage: dict[str, Any] = Field(default_factory=dict)

    @property
    def trained(self) -> DataRef | None:
        """What it was trained on, if its lineage says so; that of an imported version may say anything."""
        try:
            return DataRef.model_validate(self.lineage["data"])
        except (KeyError, ValidationError):
            return None


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    key: str | None = None
    json: Any = None
    params: Mapping[str, str] = field(default_factory=dict)


class _Party:
    """JSON over one httpx client, whose base address and signature are set where it is made."""

    def __init__(self, http: httpx.AsyncClient, name: str) -> None:
        self._http, self._name = http, name

    async def _call(self, call: _Call) -> dict[str, Any]:
        headers = {"idempotency-key": call.key} if call.key else {}
        trace = current_trace()
        if trace is not None:
            headers["traceparent"] = trace
        try:
            response = await self._http.request(
                call.method, call.path, json=call.json, params=dict(call.params) or None, headers=headers
            )
        except httpx.HTTPError as error:
            raise PartyAway(f"The {self._name} cannot be reached: {type(error).__name__}.", retry_after_s=2) from error
        return self._read(response)

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        if response.status_code in _AWAY:
            raise PartyAway(f"The {self._name} answered {response.status_code}.", retry_after_s=2)
        try:
            answer = response.json() if response.content else {}
        except ValueError as error:
            raise PartyAway(f"The {self._name} did not answer in JSON.", retry_after_s=2) from error
        if not isinstance(answer, dict):
            raise PartyAway(f"The {self._name} did not answer with an object.", retry_after_s=2)
        if response.is_success:
            return answer
        reason = str(answer.get("type", response.status_code)).rpartition(":")[2]
        detail = f"The {self._name} refused ({reason}): {answer.get('detail', '')}"
        if response.status_code == httpx.codes.NOT_FOUND:
            raise NotFound(detail)
        raise PartyRefused(detail, reason=reason, invalid=response.status_code == httpx.codes.UNPROCESSABLE_ENTITY)


class Aggregator(_Party):
    """The aggregator."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__(http, "aggregator")

    async def open(self, manifest: SignedManifest) -> dict[str, Any]:
        """Open the round; the engine's public material comes back. The same manifest again gives the same answer."""
        answer = await self._call(
            _Call(
                "PUT",
                f"/v1/rounds/{manifest.manifest.round_id}",
                key=f"{manifest.manifest.round_id}/open",
                json=manifest.model_dump(mode="json"),
            )
        )
        public = answer.get("engine_public")
        if not isinstance(public, dict):
            raise PartyRefused("The aggregator gave no public material.", reason="engine-public-missing")
        return public

    async def report(self, round_id: RoundId) -> RoundReport:
        """Fetch the state of the round; raises NotFound."""
        answer = await self._call(_Call("GET", f"/v1/rounds/{round_id}"))
        try:
            return RoundReport.model_validate(answer)
        except ValidationError as error:
            raise PartyAway("The aggregator's report is not understood.", retry_after_s=2) from error

    async def close(self, round_id: RoundId) -> None:
        """Nothing more is expected: sum what came, or fail for want of a quorum."""
        await self._call(_Call("POST", f"/v1/rounds/{round_id}/close", key=f"{round_id}/close"))

    async def cancel(self, round_id: RoundId) -> None:
        """Drop the round."""
        await self._call(_Call("POST", f"/v1/rounds/{round_id}/cancel", key=f"{round_id}/cancel"))

    async def lose(self, round_id: RoundId, sites: Collection[SiteId]) -> None:
        """These sites are not waited for any more; safe to repeat."""
        await self._call(_Call("POST", f"/v1/rounds/{round_id}/lost", json={"sites": sorted(sites)}))


class Commitment(_Answer):
    """What the witness commits to for a round, and the epoch that its database is in."""

    commitment: Digest
    epoch: int


class Keys(_Party):
    """The keys service, as the witness of rounds."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__(http, "keys service")

    async def head(self) -> LogHead:
        """The transparency log's head now."""
        try:
            return LogHead.model_validate(await self._call(_Call("GET", "/v1/log/head")))
        except ValidationError as error:
            raise PartyAway("The log's head is not understood.", retry_after_s=2) from error

    async def commit(self, round_id: RoundId) -> Commitment:
        """The witness's commitment for a round; asking again gives the same."""
        answer = await self._call(
            _Call("POST", f"/v1/rounds/{round_id}/nonce-commitments", key=f"{round_id}/nonce", json={})
        )
        try:
            return Commitment.model_validate(answer)
        except ValidationError as error:
            raise PartyAway("The commitment of keys is not understood.", retry_after_s=2) from error


class Registry(_Party):
    """The registry."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__(http, "registry")

    async def ensure_model(self, federation_id: FederationId, name: str, key: str) -> ModelId:
        """The federation's model of this name, made when there is none."""
        known = await self._find_model(federation_id, name)
        if known is not None:
            return known
        try:
            answer = await self._call(
                _Call("POST", "/v1/models", key=key, json={"federation_id": federation_id, "name": name})
            )
        except PartyRefused:
            known = await self._find_model(federation_id, name)  # another request was quicker
            if known is None:
                raise
            return known
        return _Model.model_validate(answer).id

    async def version(self, version_id: str) -> VersionFacts:
        """A version; raises NotFound."""
        return VersionFacts.model_validate(await self._call(_Call("GET", f"/v1/versions/{version_id}")))

    async def version_document(self, version_id: str) -> dict[str, Any]:
        """A version with lineage and signatures, as the registry tells it; raises NotFound."""
        return await self._call(_Call("GET", f"/v1/versions/{quote(version_id, safe='')}"))

    async def add_metrics(self, version_id: str, metrics: Mapping[str, float], key: str) -> None:
        """Append an evaluation to a version."""
        await self._call(_Call("POST", f"/v1/versions/{version_id}/metrics", key=key, json={"metrics": dict(metrics)}))

    async def _find_model(self, federation_id: FederationId, name: str) -> ModelId | None:
        after: str | None = None
        while True:
            params = {"federation_id": str(federation_id), "name": name, "limit": "100"}
            answer = await self._call(_Call("GET", "/v1/models", params=params | ({"after": after} if after else {})))
            page = _Models.model_validate(answer)
            for model in page.items:
                if model.name == name and model.federation_id == federation_id:
                    return model.id
            if page.next is None:
                return None
            after = page.next


class KeysDirectory(_Party):
    """What the keys service publishes for audits: authority, certificates and the records of rounds."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__(http, "keys service")

    async def authority(self) -> str:
        """The authority's certificate as PEM."""
        return str((await self._call(_Call("GET", "/v1/authority"))).get("certificate_pem", ""))

    async def logged(self, round_id: str) -> LoggedRecord:
        """The round's record with its proof; raises NotFound."""
        answer = await self._call(_Call("GET", f"/v1/rounds/{quote(round_id, safe='')}/record"))
        try:
            return LoggedRecord.model_validate(answer)
        except ValidationError as error:
            raise PartyAway("The record that keys gave is not understood.", retry_after_s=2) from error

    async def certificate(self, keyid: str) -> str:
        """One certificate as PEM; raises NotFound."""
        answer = await self._call(_Call("GET", f"/v1/certificates/{quote(keyid, safe='')}"))
        return str(answer.get("certificate_pem", ""))

    async def directory(self, most: int) -> list[CertificateFacts]:
        """What the directory knows of every certificate, as far as `most` go."""
        found: list[CertificateFacts] = []
        after = ""
        while len(found) < most:
            params = {"limit": "100"} | ({"after": after} if after else {})
            page = _Directory.model_validate(await self._call(_Call("GET", "/v1/certificates", params=params)))
            found += page.items
            if page.next is None:
                break
            after = page.next
        return found

    async def certificates(self, name: str) -> list[str]:
        """Every certificate that a site (by id) or service ever had, as PEM."""
        found, after = [], ""
        while True:
            params = {"name": name, "limit": "100"} | ({"after": after} if after else {})
            page = _Certificates.model_validate(await self._call(_Call("GET", "/v1/certificates", params=params)))
            found += [item.certificate_pem for item in page.items]
            if page.next is None:
                return found
            after = page.next
