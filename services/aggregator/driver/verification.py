"""Verify reports together with the helper: the sender of an invalid report is named, and the round goes on.

A report is examined here, then shown to the helper with this server's verifier share; its verdict is checked against
this server's own state. Everything is a function of the stored body and the round's stored keys, so after a crash the
same question is asked again, and the helper gives the same answer. Reports pass in batches that bound the memory; the
helper works on one while the next is examined.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from undersong.services.aggregator.contributions.folding import Folding, stored_body
from undersong.services.aggregator.domain.rounds import Reason
from undersong.services.aggregator.driver.publication import RoundFailed
from undersong.services.aggregator.peers.helper import Helper
from undersong.services.aggregator.peers.peer import AskRefused
from undersong.services.aggregator.repository.contributions import Contribution
from undersong.shared.errors import NotFound, Refusal
from undersong.shared.faults import point
from undersong.shared.identity.authority import CertificateUntrusted, Subject
from undersong.shared.identity.directory import CertificateDirectory
from undersong.shared.identity.verify import RevocationFeed
from undersong.shared.secagg.engine import ServerRound, check_header
from undersong.shared.secagg.fold import FileSource, read_body_header
from undersong.shared.secagg.twoserver.leader import Pending, accept, examine
from undersong.shared.secagg.twoserver.messages import MAX_BATCH, ReportVerdict
from undersong.shared.secagg.twoserver.report import ReportUnsigned
from undersong.shared.wire.manifest import RoundManifest

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_BATCH_WORDS: Final = 3_000_000  # what is kept of a batch between question and verdict: some 16 bytes a word

File = Callable[[Contribution], AbstractAsyncContextManager[Path]]
Renew = Callable[[], Awaitable[None]]


class HelperRejected(Refusal):
    """The helper does not accept the report."""

    def __init__(self, verdict: ReportVerdict) -> None:
        super().__init__(f"the helper: {verdict.detail}")
        self.code = verdict.code or "rejected"


@dataclass(frozen=True, slots=True)
class _Examined:
    contribution: Contribution
    pending: Pending


Verified = tuple[Contribution, Refusal | None]


class Verification:
    """Asks the helper about reports."""

    def __init__(self, helper: Helper, directory: CertificateDirectory, revocations: RevocationFeed) -> None:
        self._helper, self._directory, self._revocations = helper, directory, revocations

    async def verify(
        self, folding: Folding, contributions: Sequence[Contribution], file: File, renew: Renew
    ) -> AsyncGenerator[Verified, None]:
        """Yield each of the contributions with why it is refused, or None; Unavailable while the helper is away."""
        await self._helper.wake()
        asked: asyncio.Task[list[Verified]] | None = None
        try:
            for part in _parts(contributions, folding.length):
                examined: list[_Examined] = []
                for contribution in part:
                    found = await self._examine(folding, contribution, file)
                    if isinstance(found, Refusal):
                        yield contribution, found
                    else:
                        examined.append(found)
                    await renew()
                if asked is not None:
                    for verified in await asked:
                        yield verified
                asked = asyncio.create_task(self._ask(folding.manifest, examined)) if examined else None
            if asked is not None:
                for verified in await asked:
                    yield verified
        finally:
            if asked is not None:
                asked.cancel()

    async def _examine(self, folding: Folding, contribution: Contribution, file: File) -> _Examined | Refusal:
        try:
            async with file(contribution) as path:
                pending = await asyncio.to_thread(_opened, folding, contribution, path)
            await self._check_signature(folding.manifest, pending)
        except Refusal as refusal:
            if refusal.retry_after_s is not None:  # not the site's fault
                raise
            return refusal
        return _Examined(contribution, pending)

    async def _check_signature(self, manifest: RoundManifest, pending: Pending) -> None:
        report = pending.question.report
        try:
            holder = await self._directory.get(report.keyid)
        except (NotFound, CertificateUntrusted) as error:
            raise ReportUnsigned(f"the certificate of {report.site_id} is not known: {error.detail}") from error
        if holder.subject != Subject("site", report.site_id, manifest.federation_id):
            raise ReportUnsigned(f"the report of {report.site_id} names the certificate of another party")
        if self._revocations.revoked(report.keyid):
            raise ReportUnsigned(f"the certificate of {report.site_id} is revoked")
        report.check_signature(manifest.digest(), holder.public_key)

    async def _ask(self, manifest: RoundManifest, examined: Sequence[_Examined]) -> list[Verified]:
        try:
            verdicts = await self._helper.verify(manifest.round_id, [item.pending.question for item in examined])
        except AskRefused as refusal:
            raise RoundFailed(Reason.HELPER_REFUSED, refusal.detail) from refusal
        point("aggregator.reports.verified")
        return [
            (item.contribution, _judged(manifest, item, verdict))
            for item, verdict in zip(examined, verdicts, strict=True)
        ]


def _judged(manifest: RoundManifest, item: _Examined, verdict: ReportVerdict) -> Refusal | None:
    if verdict.message is None:
        return HelperRejected(verdict)
    try:
        accept(manifest, item.pending, verdict.message)
    except Refusal as refusal:
        return refusal
    return None


def _opened(folding: Folding, contribution: Contribution, path: Path) -> Pending:
    """In a thread."""
    with stored_body(path, contribution.digest, unseen=True):
        header, offset = read_body_header(path)
        check_header(header, folding.manifest, contribution.site_id, length=folding.length)
        with FileSource(path, offset) as source:
            return examine(
                ServerRound(folding.manifest, folding.secret), header, source, bytes.fromhex(contribution.digest)
            )


def _parts(contributions: Sequence[Contribution], length: int | None) -> Iterator[Sequence[Contribution]]:
    size = MAX_BATCH if length is None else max(1, min(MAX_BATCH, _BATCH_WORDS // length))
    for start in range(0, len(contributions), size):
        yield contributions[start : start + size]
