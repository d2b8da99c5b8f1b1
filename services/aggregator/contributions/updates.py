"""Accept one site's update into a round: check it on arrival, store it durably, count it once, acknowledge it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from undersong.services.aggregator.contributions.samples import check_samples
from undersong.services.aggregator.domain.manifests import check_member, evaluation_length, manifest_of, tail_length
from undersong.services.aggregator.domain.refusals import (
    NotInCohort,
    RoundClosed,
    SampleCountChanged,
    UpdateDiffers,
    UpdateRejected,
    WrongLength,
)
from undersong.services.aggregator.domain.rounds import Form, Known, admit, due, repeated
from undersong.services.aggregator.repository.contributions import ContributionRepository, NewContribution
from undersong.services.aggregator.repository.rounds import WORK_TOPIC, RoundRepository
from undersong.services.aggregator.repository.rows import Stored
from undersong.services.aggregator.repository.samples import SampleRepository
from undersong.services.aggregator.repository.steps import StepRepository
from undersong.services.aggregator.rounds.lifecycle import apply
from undersong.services.aggregator.steps.messages import must_go_on
from undersong.shared.blobs import Blob, BlobStore
from undersong.shared.clock import monotonic
from undersong.shared.database import Database, Transaction
from undersong.shared.errors import BadRequest, Invalid, Refusal, TooLarge
from undersong.shared.faults import point
from undersong.shared.identity.enrol import IdentityKeeper
from undersong.shared.identity.sealing import Sealer
from undersong.shared.identity.verify import Party
from undersong.shared.ids import Digest, RoundId, SiteId
from undersong.shared.secagg.engine import UPLOAD, BodySigning, ReportRepeated, ServerRound, check_header
from undersong.shared.secagg.engines import engine_facts, engine_named
from undersong.shared.secagg.quantise import counted
from undersong.shared.telemetry.metrics import MANIFEST_MISMATCH, UPDATE_BYTES, UPDATES, UPLOAD_SECONDS
from undersong.shared.wire.manifest import RoundKind, RoundManifest
from undersong.shared.wire.updates import (
    MAX_HEADER,
    PREFIX_SIZE,
    MalformedUpdate,
    ReceiptDoc,
    UpdateHeader,
    header_span,
    read_header,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
Receipt = Mapping[str, Any]
Repeat = tuple[Known, Receipt]
Expected = tuple[Stored, Receipt | None]
_ENGINE_OVERHEAD = 2  # a body is never twice its payload; the exact size follows from its header


class DigestNeeded(BadRequest):
    """The header Content-Digest with sha-256 is needed."""


class UpdateUnsigned(Invalid):
    """The header Update-Signature with the site's signature over the update is needed."""


@dataclass(frozen=True, slots=True)
class _New:
    """An update that is stored and not counted yet; `samples`: its commitment, where it is the site's first."""

    header: UpdateHeader
    blob: Blob
    samples: bytes | None
    signature: bytes | None


class Body:
    """A body that streams in: its header is read ahead, then the whole passes on."""

    def __init__(self, chunks: AsyncIterator[bytes], length: int) -> None:
        self._chunks, self.length = chunks, length
        self._head = bytearray()

    async def header(self) -> tuple[UpdateHeader, int]:
        """Return the update's header and its size in bytes; raises MalformedUpdate."""
        span = header_span(await self._ahead(PREFIX_SIZE))
        return read_header(await self._ahead(span))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield bytes(self._head)
        self._head.clear()
        async for chunk in self._chunks:
            yield chunk

    async def drain(self) -> None:
        """Take the rest and drop it, so that the sender hears the answer."""
        async for _ in self._chunks:
            pass

    async def _ahead(self, size: int) -> bytes:
        while len(self._head) < size:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                raise MalformedUpdate("the body ends within its header")
            self._head += chunk
        return bytes(self._head[:size])


class Updates:
    """Use cases about single updates."""

    def __init__(
        self, database: Database, blobs: BlobStore, identity: IdentityKeeper, sealer: Sealer, *, max_update_bytes: int
    ) -> None:
        self._database, self._blobs, self._identity, self._sealer = database, blobs, identity, sealer
        self._max_bytes = max_update_bytes

    async def expect(self, round_id: RoundId, site: Party, digest: Digest) -> Expected:
        """Before a byte is read: the round, and the receipt when these bytes are here already.

        Raises RoundUnknown, NotInCohort, RoundClosed, UpdateDiffers or UpdateRejected.
        """

        site_id = SiteId(site.name)

        async def work(tx: Transaction) -> tuple[Stored, Repeat | None]:
            stored = await RoundRepository(tx).get(round_id)
            check_member(round_id, manifest_of(stored.manifest), site)
            known = await ContributionRepository(tx).known(round_id, site_id)
            if known is None or known[0].lost(digest):
                _admit_again(stored, await tx.now(), known)
                await _check_turn(tx, stored, site_id)
                return stored, None
            return stored, known

        try:
            stored, known = await self._database.read("update.expect", work)
        except (RoundClosed, NotInCohort) as refusal:
            UPDATES.labels("late" if isinstance(refusal, RoundClosed) else "rejected_stranger").inc()
            raise
        return stored, await self._again(stored, site_id, digest, known)

    def limit(self, stored: Stored) -> int:
        """Return the most bytes that an update of this round may have, as far as can be said before its header is
        read.
        """
        manifest = manifest_of(stored.manifest)
        encoding, fixed = manifest.encoding, engine_facts(manifest.engine).fixed_bytes
        if encoding is None or stored.length is None:
            return self._max_bytes
        plain = stored.length * encoding.modulus_bits // 8
        if counted(encoding):
            plain *= encoding.bound.bit_length()  # a proof of range splits each count into its bits
        return min(self._max_bytes, _ENGINE_OVERHEAD * plain + fixed + PREFIX_SIZE + MAX_HEADER)

    async def accept(
        self, stored: Stored, site: Party, digest: Digest, body: Body, signature: bytes | None = None
    ) -> Receipt:
        """Store an announced body and count it; return the signed receipt. Whatever is wrong with it is a Refusal.

        `signature`: the site's, over the digest, where the engine has bodies signed.
        """
        began, site_id = monotonic(), SiteId(site.name)
        header, span = await body.header()
        self._check(stored, site_id, header, body.length, span)
        signing = engine_named(header.engine).signing
        if signing is not None:
            await asyncio.to_thread(self._check_signature, signing, stored, site, digest, signature)
        fresh = await check_samples(self._database, stored, manifest_of(stored.manifest), site_id, header.samples)
        blob = await self._blobs.put_stream(aiter(body), limit=body.length, expect=digest, expect_size=body.length)
        point("aggregator.body.stored")
        new = _New(header, blob, fresh, signature)
        try:
            known = await self._database.run("update.accept", lambda tx: self._count(tx, stored, new))
        except (RoundClosed, WrongLength, ReportRepeated, SampleCountChanged) as refusal:
            # Counted nowhere: the same bytes counted would be `known`.
            UPDATES.labels(_uncounted(refusal)).inc()
            await self._blobs.delete(digest)
            raise
        if isinstance(known, tuple):
            receipt = await self._again(stored, site_id, digest, known)
            assert receipt is not None  # noqa: S101  (known is not None)
            return receipt
        point("aggregator.update.committed")
        UPDATES.labels("accepted").inc()
        UPDATE_BYTES.observe(blob.size)
        UPLOAD_SECONDS.observe(monotonic() - began)
        return known

    def _check(self, stored: Stored, site_id: SiteId, header: UpdateHeader, announced: int, span: int) -> None:
        manifest = manifest_of(stored.manifest)
        if header.manifest_digest != stored.manifest_digest and header.round_id == stored.round.id:
            MANIFEST_MISMATCH.inc()
        check_header(header, manifest, site_id)
        _check_length(stored, manifest, header)
        size = span + engine_named(manifest.engine).server.body_size(manifest, header)
        if announced > size:
            raise TooLarge(f"{announced} bytes are announced, an update with this header has {size}")
        if announced < size:
            raise MalformedUpdate(f"{announced} bytes are announced, an update with this header has {size}")

    def _check_signature(
        self, signing: BodySigning, stored: Stored, site: Party, digest: Digest, signature: bytes | None
    ) -> None:
        """Raise UpdateUnsigned or UpdateRefused unless the site signed this body."""
        manifest = manifest_of(stored.manifest)
        if signature is None:
            raise UpdateUnsigned(f"an update of engine {manifest.engine} comes with its site's Update-Signature")
        if stored.engine_secret is None:
            raise RoundClosed("the round is over")
        secret = self._sealer.open(stored.engine_secret, "rounds", stored.round.id, "engine_secret")
        site_id, key = SiteId(site.name), site.public_key.public_bytes_raw()
        signing.check(ServerRound(manifest, secret, {site_id: key}), site_id, bytes.fromhex(digest), signature)

    async def _count(self, tx: Transaction, seen: Stored, new: "_New") -> Receipt | Repeat:
        header, digest, size = new.header, new.blob.digest, new.blob.size
        rows, given, now = RoundRepository(tx), ContributionRepository(tx), await tx.now()
        round_id, site_id = header.round_id, header.site_id
        receipt: Receipt = self._receipt(
            ReceiptDoc(round_id=round_id, site_id=site_id, digest=digest, size=size, accepted_at=now.isoformat())
        )
        awaited = False
        if seen.round.tracks_steps:
            seen = await rows.lock(round_id)
            awaited = site_id not in await StepRepository(tx, round_id).lost()
        form = Form(header.length, header.metrics_layout)
        if not await given.add(NewContribution(round_id, site_id, digest, size, now, receipt, form, new.signature)):
            known = await given.known(round_id, site_id)
            if known is None:
                raise RuntimeError("a contribution is neither there nor new")
            if not (known[0].lost(digest) and await given.find_again(round_id, site_id)):
                return known
            receipt = known[1]  # the same bytes, the same receipt
            await rows.note(round_id, "update.restored", site_id, {"digest": known[0].digest})
        else:
            await _take_id(given, seen, site_id, header)
        if new.samples is not None:
            await SampleRepository(tx, seen.job_id).keep(site_id, round_id, new.samples)
        stored = await given.count(round_id, form, awaited=awaited)
        if stored is None:
            await self._explain(rows, seen, header)
            raise RoundClosed("the round takes no more updates")
        move = due(stored.round, now)
        if move is not None:
            await apply(rows, stored, move)
        else:
            await tx.emit(WORK_TOPIC, "update.accepted", round_id)
        return receipt

    async def _explain(self, rows: RoundRepository, seen: Stored, header: UpdateHeader) -> None:
        """Raise why an update was not counted."""
        stored = await rows.get(seen.round.id)
        admit(stored.round, await rows.tx.now())
        _check_length(stored, manifest_of(stored.manifest), header)

    def _receipt(self, document: ReceiptDoc) -> dict[str, Any]:
        identity = self._identity()
        signature = identity.private_key.sign(document.statement()).hex()
        return {**document.model_dump(mode="json"), "keyid": identity.keyid, "signature": signature}

    async def _again(self, stored: Stored, site_id: SiteId, digest: Digest, known: Repeat | None) -> Receipt | None:
        if known is None:
            return None
        try:
            repeated(known[0], digest, site_id)
        except UpdateDiffers:
            UPDATES.labels("stale").inc()
            await self._note_difference(stored, site_id, digest, known[0].digest)
            raise
        except UpdateRejected:
            UPDATES.labels("rejected_before").inc()
            raise
        UPDATES.labels("duplicate").inc()
        return known[1]

    async def _note_difference(self, stored: Stored, site_id: SiteId, digest: Digest, first: Digest) -> None:
        detail = {"first": first, "second": digest}
        log.warning("update.differs", round_id=stored.round.id, site_id=site_id, **detail)
        await self._database.run(
            "update.differs", lambda tx: RoundRepository(tx).note(stored.round.id, "update.differs", site_id, detail)
        )


def _admit_again(stored: Stored, now: datetime, known: Repeat | None) -> None:
    """Raise RoundClosed unless the round takes the update; UpdateRejected where it came, and was lost, before."""
    try:
        admit(stored.round, now)
    except RoundClosed:
        if known is None:
            raise
        raise UpdateRejected(f"the update was rejected: {known[0].rejected_for}") from None


async def _check_turn(tx: Transaction, stored: Stored, site_id: SiteId) -> None:
    """Check that the site took part in the steps before the upload; SiteFellOut, DealerAtFault."""
    if stored.round.tracks_steps:
        order = engine_facts(manifest_of(stored.manifest).engine).steps
        await must_go_on(tx, stored.round.id, order, UPLOAD, site_id)


async def _take_id(given: ContributionRepository, stored: Stored, site_id: SiteId, header: UpdateHeader) -> None:
    """Note the update's single-use id, where it has one; raises ReportRepeated for one that the job has seen."""
    field = engine_facts(header.engine).single_use_ids
    report_id = header.material.get(field) if field is not None else None
    if not isinstance(report_id, bytes):
        return
    if not await given.take_report_id(stored, site_id, report_id.hex()):
        raise ReportRepeated("a report of this id was accepted in this job before")


def _uncounted(refusal: Refusal) -> str:
    if isinstance(refusal, RoundClosed):
        return "late"
    if isinstance(refusal, SampleCountChanged):
        return "rejected_samples"
    return "rejected_length" if isinstance(refusal, WrongLength) else "rejected_report_repeated"


def _check_length(stored: Stored, manifest: RoundManifest, header: UpdateHeader) -> None:
    if manifest.encoding is None:
        return  # an initialise round: each site's model file has its own length
    in_pairs = manifest.kind is RoundKind.STATISTICS and not counted(manifest.encoding) and manifest.privacy is None
    if in_pairs and header.length % 2:
        raise WrongLength("statistics have two words a value, so their number is even")
    if manifest.kind is RoundKind.TRAIN and header.length <= tail_length(manifest):
        raise WrongLength(f"an update of a model has more than {tail_length(manifest)} words")
    if stored.length is not None and header.length != stored.length:
        raise WrongLength(f"the update has {header.length} words, this round's have {stored.length}")
    if header.metrics_layout is not None:
        if stored.layout not in (None, header.metrics_layout):
            raise WrongLength(f"the update's layout is {header.metrics_layout}, this round's is {stored.layout}")
        if header.length != evaluation_length(header.metrics_layout):
            raise WrongLength(f"layout {header.metrics_layout} has {evaluation_length(header.metrics_layout)} words")
