"""Rounds as values: what is read from a row, and what is written to one. No row leaves the repository."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from undersong.services.aggregator.domain.manifests import manifest_of
from undersong.services.aggregator.domain.rounds import Phase, Round
from undersong.shared.ids import Digest, JobId, RoundId, VersionId
from undersong.shared.wire.manifest import SignedManifest


@dataclass(frozen=True, slots=True)
class Stored:
    """A round with everything that is known of it beside what the rules need."""

    round: Round
    federation_id: str
    job_id: JobId
    kind: str
    reason: str | None
    version: int
    manifest_digest: Digest
    manifest: str
    manifest_keyid: str | None
    manifest_signature: str | None
    engine_public: Mapping[str, Any]
    engine_secret: bytes | None
    length: int | None
    layout: str | None
    fence: int
    failures: int
    opened_at: datetime
    moved_at: datetime
    version_id: VersionId | None
    content_digest: Digest | None
    state_digest: Digest | None
    result: Mapping[str, Any] | None

    def signed_manifest(self) -> SignedManifest | None:
        """Return the manifest with the coordinator's signature, or None for rounds of an older version."""
        if self.manifest_keyid is None or self.manifest_signature is None:
            return None
        manifest, keyid = manifest_of(self.manifest), Digest(self.manifest_keyid)
        return SignedManifest(manifest=manifest, keyid=keyid, signature=self.manifest_signature)


@dataclass(frozen=True, slots=True)
class Intent:
    """What the registry is asked to store, and the version when it has answered."""

    model_id: str
    body: Mapping[str, Any]
    version_id: VersionId | None


@dataclass(frozen=True, slots=True)
class NewRound:
    """A round to be opened under a signed manifest.

    `engine_secret`: sealed. `length`: words of an update, where they are known beforehand. `step` and its deadline:
    the first, where the engine has steps.
    """

    signed: SignedManifest
    manifest_digest: Digest
    engine_public: Mapping[str, Any]
    engine_secret: bytes
    length: int | None
    opened_at: datetime
    deadline: datetime
    finish_by: datetime
    step: str | None = None
    step_deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What a round has brought when it moves on; None leaves a column as it is."""

    result: Mapping[str, Any]
    content_digest: Digest | None = None
    state_digest: Digest | None = None
    model_length: int | None = None
    version_id: VersionId | None = None


ROUND_COLUMNS = (
    "id",
    "phase",
    "got",
    "rejected",
    "cohort_size",
    "min_cohort",
    "target",
    "deadline",
    "finish_by",
    "step",
    "step_missing",
    "step_deadline",
)


def round_of(row: Any) -> Round:
    """Return what the rules need, out of a row that has `ROUND_COLUMNS`."""
    return Round(
        id=RoundId(row.id),
        phase=Phase(row.phase),
        got=row.got,
        rejected=row.rejected,
        cohort_size=row.cohort_size,
        min_cohort=row.min_cohort,
        target=row.target,
        deadline=row.deadline,
        finish_by=row.finish_by,
        step=row.step,
        step_missing=row.step_missing or 0,
        step_deadline=row.step_deadline,
    )


def stored_of(row: Any) -> Stored:
    """Return a whole row of a round, frozen."""
    return Stored(
        round=round_of(row),
        federation_id=row.federation_id,
        job_id=JobId(row.job_id),
        kind=row.kind,
        reason=row.reason,
        version=row.version,
        manifest_digest=Digest(row.manifest_digest),
        manifest=row.manifest,
        manifest_keyid=row.manifest_keyid,
        manifest_signature=row.manifest_signature,
        engine_public=row.engine_public,
        engine_secret=row.engine_secret,
        length=row.length,
        layout=row.layout,
        fence=row.fence,
        failures=row.failures,
        opened_at=row.opened_at,
        moved_at=row.moved_at,
        version_id=None if row.version_id is None else VersionId(row.version_id),
        content_digest=None if row.content_digest is None else Digest(row.content_digest),
        state_digest=None if row.state_digest is None else Digest(row.state_digest),
        result=row.result,
    )


def columns_of(new: NewRound) -> dict[str, Any]:
    """Return the row of a round that begins."""
    manifest = new.signed.manifest
    return {
        "id": manifest.round_id,
        "federation_id": manifest.federation_id,
        "job_id": manifest.job_id,
        "kind": str(manifest.kind),
        "phase": str(Phase.COLLECTING),
        "version": 1,
        "manifest_digest": new.manifest_digest,
        "manifest": manifest.model_dump_json(),
        "manifest_keyid": new.signed.keyid,
        "manifest_signature": new.signed.signature,
        "step": new.step,
        "step_missing": None if new.step is None else len(manifest.cohort),
        "step_deadline": new.step_deadline,
        "engine_public": dict(new.engine_public),
        "engine_secret": new.engine_secret,
        "cohort_size": len(manifest.cohort),
        "min_cohort": manifest.min_cohort,
        "target": manifest.target,
        "got": 0,
        "rejected": 0,
        "length": new.length,
        "layout": manifest.metrics_layout,
        "deadline": new.deadline,
        "finish_by": new.finish_by,
        "next_check_at": new.opened_at,
        "fence": 0,
        "failures": 0,
        "opened_at": new.opened_at,
        "moved_at": new.opened_at,
        "keeps_blobs": True,
    }


def columns_made(made: Made | None) -> dict[str, Any]:
    """Return the columns that it fills in."""
    if made is None:
        return {}
    columns = {
        "result": dict(made.result),
        "content_digest": made.content_digest,
        "state_digest": made.state_digest,
        "model_length": made.model_length,
        "version_id": made.version_id,
    }
    return {name: value for name, value in columns.items() if value is not None}
