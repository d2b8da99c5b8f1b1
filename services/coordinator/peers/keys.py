"""The keys service, as the coordinator asks it: as the witness of rounds, and for certificates and records."""

from datetime import datetime
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from undersong.services.coordinator.peers.peer import Answer, Call, PartyAway, Peer
from undersong.shared.ids import Digest, RoundId
from undersong.shared.transparency.documents import LoggedRecord
from undersong.shared.transparency.ledger_heads import LoggedLedgerHead
from undersong.shared.wire.manifest import LogHead


class _Certificate(Answer):
    certificate_pem: str


class CertificateFacts(Answer):
    """A certificate in the directory of keys."""

    keyid: Digest
    kind: str
    name: str
    federation_id: str | None = None
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None = None
    reason: str | None = None


class NewInvitation(Answer):
    """A site's enrolment token; `needs_approval`: an operator approves the key that uses it."""

    id: str
    token: str
    expires_at: datetime
    needs_approval: bool


class _Directory(Answer):
    items: list[CertificateFacts]
    next: str | None = None


class _Certificates(Answer):
    items: list[_Certificate]
    next: str | None = None


class _LedgerHeads(Answer):
    items: tuple[LoggedLedgerHead, ...]


class Commitment(Answer):
    """What the witness commits to for a round, and the epoch that its database is in."""

    commitment: Digest
    epoch: int


class Keys(Peer):
    """The keys service, as the witness of rounds."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__(http, "keys service")

    async def head(self) -> LogHead:
        """Return the transparency log's head now."""
        try:
            return LogHead.model_validate(await self._call(Call("GET", "/v1/log/head")))
        except ValidationError as error:
            raise PartyAway("The log's head is not understood.", retry_after_s=2) from error

    async def commit(self, round_id: RoundId) -> Commitment:
        """Return the witness's commitment for a round; asking again gives the same."""
        answer = await self._call(
            Call("POST", f"/v1/rounds/{round_id}/nonce-commitments", key=f"{round_id}/nonce", json={})
        )
        try:
            return Commitment.model_validate(answer)
        except ValidationError as error:
            raise PartyAway("The commitment of the keys service is not understood.", retry_after_s=2) from error


class KeysDirectory(Peer):
    """What the keys service publishes for audits: authority, certificates and the records of rounds."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        super().__init__(http, "keys service")

    async def authority(self) -> str:
        """Return the authority's certificate as PEM."""
        return str((await self._call(Call("GET", "/v1/authority"))).get("certificate_pem", ""))

    async def logged(self, round_id: str) -> LoggedRecord:
        """Return the round's record with its proof; raises NotFound."""
        answer = await self._call(Call("GET", f"/v1/rounds/{quote(round_id, safe='')}/record"))
        try:
            return LoggedRecord.model_validate(answer)
        except ValidationError as error:
            raise PartyAway("The record that the keys service gave is not understood.", retry_after_s=2) from error

    async def ledger_heads(
        self, federation_id: str, site_id: str, start: int = 0, limit: int = 100
    ) -> list[LoggedLedgerHead]:
        """Return heads of a site's ledger in the log's order, from the entry `start` on."""
        params = {"federation_id": federation_id, "site_id": site_id, "start": str(start), "limit": str(limit)}
        answer = await self._call(Call("GET", "/v1/log/ledger-heads", params=params))
        try:
            return list(_LedgerHeads.model_validate(answer).items)
        except ValidationError as error:
            raise PartyAway("The heads that the keys service gave are not understood.", retry_after_s=2) from error

    async def certificate(self, keyid: str) -> str:
        """Return one certificate as PEM; raises NotFound."""
        answer = await self._call(Call("GET", f"/v1/certificates/{quote(keyid, safe='')}"))
        return str(answer.get("certificate_pem", ""))

    async def directory(self, most: int) -> list[CertificateFacts]:
        """Return what the directory knows of every certificate, as far as `most` go."""
        found: list[CertificateFacts] = []
        after = ""
        while len(found) < most:
            params = {"limit": "100"} | ({"after": after} if after else {})
            page = _Directory.model_validate(await self._call(Call("GET", "/v1/certificates", params=params)))
            found += page.items
            if page.next is None:
                break
            after = page.next
        return found

    async def invite(
        self, site_id: str, federation_id: str, invited_by: str, expires_in_s: int, key: str
    ) -> NewInvitation:
        """Return an enrolment token for a site; with the same key, the same token."""
        body = {"site_id": site_id, "federation_id": federation_id, "invited_by": invited_by}
        answer = await self._call(Call("POST", "/v1/invitations", key=key, json={**body, "expires_in_s": expires_in_s}))
        try:
            return NewInvitation.model_validate(answer)
        except ValidationError as error:
            raise PartyAway("The invitation that the keys service gave is not understood.", retry_after_s=2) from error

    async def certificates_of(self, name: str) -> list[CertificateFacts]:
        """Return what the directory knows of every certificate that a site ever had."""
        found: list[CertificateFacts] = []
        after = ""
        while True:
            params = {"name": name, "limit": "100"} | ({"after": after} if after else {})
            page = _Directory.model_validate(await self._call(Call("GET", "/v1/certificates", params=params)))
            found += page.items
            if page.next is None:
                return found
            after = page.next

    async def certificates(self, name: str) -> list[str]:
        """Return every certificate that a site (by id) or service ever had, as PEM."""
        found, after = [], ""
        while True:
            params = {"name": name, "limit": "100"} | ({"after": after} if after else {})
            page = _Certificates.model_validate(await self._call(Call("GET", "/v1/certificates", params=params)))
            found += [item.certificate_pem for item in page.items]
            if page.next is None:
                return found
            after = page.next
