"""The round manifest: everything a party must agree on before it gives anything to a round, and who vouches for it.

The coordinator signs the digest; every key and every sealed body is bound to it, so parties that were told different
things cannot take part in one sum.
"""

import hashlib
from enum import StrEnum
from typing import Final, Literal, Self

from pydantic import Field, JsonValue, StrictFloat, model_validator

from undersong.shared.ids import Digest, FederationId, JobId, ModelId, RoundId, SiteId, VersionId
from undersong.shared.wire.canonical import digest_document
from undersong.shared.wire.columns import Column, Unused
from undersong.shared.wire.compression import Compression
from undersong.shared.wire.forms import Digestible, DigestText, Document, Hex, Name, SignatureHex, controls, is_empty
from undersong.shared.wire.privacy import PrivacyModel, PrivacyTerms, PrivacyUnit, Row

PROTOCOL: Final = 1
MANIFEST_CONTEXT: Final = b"undersong/manifest/1\0"
ENGINE_CONTEXT: Final = b"undersong/engine/1\0"
SEED_CONTEXT: Final = b"undersong/seed/1\0"
SHARED_CONTEXT: Final = b"undersong/shared-key/1\0"
VERSION_CONTEXT: Final = b"undersong/version/1\0"
AUDIT_CONTEXT: Final = b"undersong/audit/1\0"
HEAD_CONTEXT: Final = b"undersong/log-head/1\0"
STATISTICS_RECIPE: Final = "statistics"
"""The recipe of statistics jobs: of its sums alone is known what one record changes in them."""
TRAINING_ROUND: Final = "round"
"""The name under which a training round's context says how many came before it, and how many the job has at most."""
MOST_REASON: Final = 2000
"""Characters of a job's reason."""


class RoundKind(StrEnum):
    """What a round asks of its sites."""

    INITIALISE = "initialise"
    STATISTICS = "statistics"
    TRAIN = "train"
    EVALUATE = "evaluate"
    PREPARE = "prepare"  # an order to train ahead of a round of training: nothing is summed, and nothing sent


TRAINING: Final = (RoundKind.TRAIN, RoundKind.PREPARE)
"""The kinds for which a recipe trains."""


class Encoding(Document):
    """How a real vector becomes integers modulo ``2**modulus_bits`` whose sum over all sites cannot wrap.

    A coordinate x becomes q = round(x * scale) with |q| <= bound, times the site's weight w <= max_weight. With
    `clip_bit` one coordinate more follows: clip_bit where the vector was within `clip_norm`, else -clip_bit.
    The headroom ``max_summands * max_weight * bound < 2**(modulus_bits - 1)`` is part of the document's validity.
    """

    modulus_bits: Literal[16, 24, 32, 64]
    max_summands: int = Field(ge=1, le=2**24, strict=True)
    bound: int = Field(ge=1, lt=2**63, strict=True)
    scale: float = Field(gt=0, strict=True)
    max_weight: int = Field(ge=1, le=2**16, strict=True)
    clip_norm: float | None = Field(default=None, gt=0, strict=True)
    clip_bit: int | None = Field(default=None, ge=1, strict=True, exclude_if=is_empty)

    @property
    def clip_words(self) -> int:
        """How many coordinates more than the vector are summed: one with `clip_bit`."""
        return 0 if self.clip_bit is None else 1

    @model_validator(mode="after")
    def _has_headroom(self) -> Self:
        if self.clip_bit is not None and (self.clip_norm is None or self.max_weight != 1 or self.clip_bit > self.bound):
            raise ValueError("clip_bit needs a clip_norm and equal weights, and is at most bound")
        if self.max_summands * self.max_weight * self.bound >= 1 << (self.modulus_bits - 1):
            raise ValueError("the sum of max_summands updates of max_weight * bound would wrap")
        return self


class RecipeRef(Document):
    """Which recipe runs, with which parameters; the digest is that of its source."""

    name: Name
    digest: DigestText
    params: dict[str, JsonValue] = Field(default_factory=dict)


class Fold(Document):
    """One fold of a cross-validation: its rows are evaluated on and not trained on; `number` counts from 1."""

    number: int = Field(ge=1, le=100, strict=True)
    of: int = Field(ge=2, le=100, strict=True)

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.number > self.of:
            raise ValueError(f"fold {self.number} is not one of {self.of}")
        return self


EvaluatedPart = Literal["test", "validation", "all"]


class DataRef(Digestible):
    """Which data set of the site is used, by the names in its own ``datasets.yaml``.

    `columns` are the features and the label as all sites agreed on them, with their categories in the one order that
    every site maps its own to; `listed` names those whose categories the job itself lists, so that a site may have
    fewer. `unused` are the columns that the round does not read. `part`: the rows that evaluations are about, those of
    the test where it is left out; `fold`: the rows left out of training for validation. `group`: a category column, for
    each of whose values an evaluation adds up too; which is one of `columns`.
    """

    dataset: Name
    features: tuple[Name, ...] = ()
    label: Name | None = None
    columns: tuple[Column, ...] = Field(default=(), exclude_if=is_empty)
    listed: tuple[Name, ...] = Field(default=(), exclude_if=is_empty)
    unused: tuple[Unused, ...] = Field(default=(), exclude_if=is_empty)
    part: EvaluatedPart | None = Field(default=None, exclude_if=is_empty)
    fold: Fold | None = Field(default=None, exclude_if=is_empty)
    group: Name | None = Field(default=None, exclude_if=is_empty)

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that are named to be read: features, label and group, each once."""
        beside = (name for name in (self.label, self.group) if name is not None and name not in self.features)
        return tuple(dict.fromkeys((*self.features, *beside)))

    @property
    def groups(self) -> tuple[str, ...]:
        """The categories of the group column; none without one."""
        return next((column.categories or () for column in self.columns if column.name == self.group), ())

    @property
    def evaluated(self) -> EvaluatedPart:
        """The rows that evaluations are about: those of the test, or of a fold, unless another part is named."""
        return self.part or ("test" if self.fold is None else "validation")

    @model_validator(mode="after")
    def _columns_are_those_named(self) -> Self:
        if self.columns and sorted(self.read) != sorted(column.name for column in self.columns):
            raise ValueError("columns must be the features, the label and the group, each once")
        if self.group is not None and not self.groups:
            raise ValueError("the group must be one of the columns, with categories")
        return self


class ModelRef(Document):
    """The model version that a round starts from."""

    version_id: VersionId
    digest: DigestText


class StrategyRef(Document):
    """How the sum becomes the next model (see `undersong.shared.learning.strategies`)."""

    name: Name
    params: dict[str, JsonValue] = Field(default_factory=dict)


class BufferedChange(Document):
    """A change that a site has ready: the version that it trained from, and how many versions came since."""

    site_id: SiteId
    version_id: VersionId
    staleness: int = Field(ge=0, le=100_000, strict=True)


class LogHead(Document):
    """The transparency log's size and root at one time (Unix milliseconds), signed by keys over `statement`."""

    size: int = Field(ge=0, lt=2**63, strict=True)
    root: DigestText
    timestamp_ms: int = Field(ge=0, lt=2**63, strict=True)
    keyid: DigestText
    signature: SignatureHex

    def statement(self) -> bytes:
        """Return the bytes that the key of the keys service signs."""
        return head_statement(self.size, bytes.fromhex(self.root), self.timestamp_ms)


def head_statement(size: int, root: bytes, timestamp_ms: int) -> bytes:
    """Return the bytes that are signed for a head: context, size and time as 64-bit big-endian numbers around the
    root.
    """
    return HEAD_CONTEXT + size.to_bytes(8, "big") + root + timestamp_ms.to_bytes(8, "big")


class PlannedRounds(Document):
    """The rounds of one kind that a job has: how many at most, and what limits and hides each site's part in them.

    clip_norm: the limit of an update's norm in every one of them; None where it is not the same in all.
    """

    kind: RoundKind
    rounds: int = Field(ge=1, le=10**6, strict=True)
    clip_norm: float | None = Field(default=None, gt=0, strict=True)
    privacy: PrivacyTerms | None = None


class JobRequest(Document):
    """What sites' owners are asked to consent to: the job as its requester and the coordinator describe it.

    It is the same in every round of a job. columns: all that any round may read, the label among them.
    """

    name: Name
    requester: Name
    reason: str = Field(default="", max_length=MOST_REASON)
    planned: tuple[PlannedRounds, ...] = Field(max_length=len(RoundKind))
    columns: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _can_be_shown(self) -> Self:
        if any(map(controls, (self.reason, self.name, self.requester))):
            raise ValueError("name, requester or reason has a control character")
        if len({each.kind for each in self.planned}) != len(self.planned):
            raise ValueError("rounds of one kind are planned twice")
        return self


class RoundManifest(Digestible):
    """One attempt at one round of a job.

    log_head: the transparency log as the coordinator saw it last, for sites to compare with what they see themselves.
    privacy: what noise bounds, in a round whose sum is noisy; without it the sum is exact.
    noise_row: of noise that is correlated over the job's rounds, the row that this round's sum gets, from 1. A row is
    given to one opened sum of a job, whatever the number of the round; rows count rounds that train, and no others.
    request: what the sites' owners are asked to consent to.
    site_metrics: whether an evaluation asks sites for their own metrics in the clear, told where policies allow it.
    buffered: in a round that collects what sites trained before it, which change each site of the cohort is to give.
    compression: what is done to updates before they are encoded; without it they are encoded as they are.

    The form of an update never depends on what a site sent first. Updates of a train round have the length of the
    model; those of an evaluation, and of a statistics job, have `length` and `metrics_layout`. Only what a training
    recipe adds up before it trains has a length that only the sites know: there it is the one that most of them
    send.
    """

    protocol: Literal[1] = PROTOCOL
    federation_id: FederationId
    job_id: JobId
    round_id: RoundId
    number: int = Field(ge=0, strict=True)
    attempt: int = Field(ge=1, strict=True)
    kind: RoundKind
    engine: Name
    engine_params: dict[str, JsonValue] = Field(default_factory=dict)
    recipe: RecipeRef
    data: DataRef
    model: ModelRef | None = None
    model_id: ModelId | None = None
    context: dict[str, list[StrictFloat]] = Field(default_factory=dict)
    encoding: Encoding | None = None
    cohort: tuple[SiteId, ...] = Field(min_length=1)
    min_cohort: int = Field(ge=1, strict=True)
    target: int = Field(ge=1, strict=True)
    strategy: StrategyRef
    seed: int = Field(ge=0, lt=2**63, strict=True)
    deadline_s: float = Field(gt=0, strict=True)
    epoch: int = Field(default=0, ge=0, strict=True)
    weight_unit: int = Field(default=1, ge=1, strict=True)
    log_head: LogHead | None = Field(default=None, exclude_if=is_empty)
    length: int | None = Field(default=None, ge=1, le=2**36, strict=True, exclude_if=is_empty)
    metrics_layout: Name | None = Field(default=None, exclude_if=is_empty)
    privacy: PrivacyTerms | None = Field(default=None, exclude_if=is_empty)
    request: JobRequest | None = Field(default=None, exclude_if=is_empty)
    noise_row: Row | None = Field(default=None, exclude_if=is_empty)
    site_metrics: bool = Field(default=False, strict=True, exclude_if=is_empty)
    buffered: tuple[BufferedChange, ...] = Field(default=(), exclude_if=is_empty)
    compression: Compression | None = Field(default=None, exclude_if=is_empty)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if list(self.cohort) != sorted(set(self.cohort)):
            raise ValueError("cohort must be sorted and name each site once")
        if not self.min_cohort <= self.target <= len(self.cohort):
            raise ValueError("min_cohort <= target <= size of the cohort must hold")
        if self.kind in (*TRAINING, RoundKind.EVALUATE) and self.model is None:
            raise ValueError("a round that trains or evaluates needs a model")
        if self.kind is not RoundKind.STATISTICS and self.model_id is None:
            raise ValueError("a round that has to do with a model names it")
        if (self.encoding is None) != (self.kind is RoundKind.INITIALISE):
            raise ValueError("every round but initialise needs an encoding, and initialise has none")
        if self.encoding is not None and self.encoding.max_summands < len(self.cohort):
            raise ValueError("the encoding has headroom for fewer sites than the cohort holds")
        if (self.metrics_layout is not None or self.site_metrics) and self.kind is not RoundKind.EVALUATE:
            raise ValueError("only a round that evaluates has a metrics_layout, or asks for sites' own metrics")
        if self.length is not None and self.kind not in (RoundKind.STATISTICS, RoundKind.EVALUATE):
            raise ValueError("the length of an update of a model follows from the model")
        if self.privacy is not None:
            self._check_privacy(self.privacy)
        self._check_row()
        return self

    @model_validator(mode="after")
    def _collects_of_its_cohort(self) -> Self:
        if self.buffered and self.kind is not RoundKind.TRAIN:
            raise ValueError("only a round that trains collects changes")
        if self.buffered and tuple(each.site_id for each in self.buffered) != self.cohort:
            raise ValueError("a round that collects changes names one of each site, in the cohort's order")
        return self

    @model_validator(mode="after")
    def _counts_clipped_updates(self) -> Self:
        moves = self.privacy is not None and self.privacy.adaptive_clip is not None
        if moves != (self.encoding is not None and self.encoding.clip_bit is not None):
            raise ValueError("a clip norm that moves and clip_bit need each other")
        return self

    @model_validator(mode="after")
    def _compresses_soundly(self) -> Self:
        asked = self.compression
        if asked is None:
            return self
        if self.kind is not RoundKind.TRAIN or self.encoding is None:
            raise ValueError("only updates of a round that trains are compressed")
        if self.buffered:
            raise ValueError("changes that were made before their round are sent whole")
        if asked.rotation and self.encoding.clip_norm is None:
            raise ValueError("what is rotated needs a clip_norm")
        if self.privacy is not None and (asked.error_feedback or self.privacy.model is not PrivacyModel.RECORD):
            raise ValueError("of updates with this noise no compression is accounted for")
        return self

    def _check_row(self) -> None:
        """Raise ValueError for a row of noise that the job's noise has not, or none where it has some."""
        correlated = self.privacy.correlated if self.privacy is not None else None
        if (correlated is None) != (self.noise_row is None):
            raise ValueError("noise that is correlated over rounds has rows, and no other")
        if correlated is not None and (self.noise_row or 0) > correlated.rows:
            raise ValueError("the row lies beyond the rows of the job's noise")

    def _check_privacy(self, terms: PrivacyTerms) -> None:
        """Raise ValueError for terms that this round cannot keep."""
        if terms.min_sites + terms.colluding > self.min_cohort:
            raise ValueError("noise is counted on of more sites than the minimum cohort")
        if self.kind not in (*TRAINING, RoundKind.STATISTICS):
            raise ValueError("only a round that trains or asks for statistics has privacy terms")
        if self.kind in TRAINING and (terms.model is PrivacyModel.RECORD) != (terms.unit is PrivacyUnit.RECORD):
            raise ValueError("noise on a sum of updates protects sites, noise inside a recipe records")
        if self.kind not in TRAINING and terms.adaptive_clip is not None:
            raise ValueError("only updates of a model have a clip norm that moves")
        if self.kind is RoundKind.STATISTICS and terms.unit is not PrivacyUnit.RECORD:
            raise ValueError("noise on statistics protects records")
        if self.kind is RoundKind.STATISTICS and terms.model is PrivacyModel.RECORD:
            raise ValueError("a recipe adds noise as it trains, and to no statistics")
        if self.kind is RoundKind.STATISTICS and terms.correlated is not None:
            raise ValueError("noise is correlated over rounds that train, and over no statistics")

    def seed_of(self, site_id: SiteId) -> int:
        """Return the seed of 63 bits that a site's recipe gets.

        Each site has its own, so that sites with equally many rows draw different batches and their noise averages
        out; it follows from the manifest, so that a second attempt at the round gives the same result. The first model
        depends on no site, and has the manifest's seed.
        """
        if self.kind is RoundKind.INITIALISE:
            return self.seed
        drawn = hashlib.sha256(SEED_CONTEXT + f"{self.seed}/{site_id}".encode()).digest()
        return int.from_bytes(drawn[:8], "big") >> 1

    def shared_key(self, purpose: str) -> bytes:
        """Return 32 bytes that every party of the round knows: what all sites draw alike follows from them.

        The same in every attempt at the round, so that a site which tries again sends the same coordinates.
        """
        return hashlib.sha256(SHARED_CONTEXT + f"{self.seed}/{purpose}".encode()).digest()

    def statement(self) -> bytes:
        """Return the bytes that the coordinator's key signs."""
        return MANIFEST_CONTEXT + bytes.fromhex(self.digest())


class SignedManifest(Document):
    """A manifest with the coordinator's Ed25519 signature over `RoundManifest.statement`."""

    manifest: RoundManifest
    keyid: DigestText
    signature: Hex


class EnginePublic(Digestible):
    """What the aggregator publishes for one round, signed by it so that no other key can take its place on the way."""

    round_id: RoundId
    manifest_digest: DigestText
    engine: Name
    public: dict[str, JsonValue]

    def statement(self) -> bytes:
        """Return the bytes that the aggregator's key signs."""
        return ENGINE_CONTEXT + bytes.fromhex(self.digest())


class SignedEnginePublic(Document):
    """An `EnginePublic` with the aggregator's Ed25519 signature over its statement."""

    document: EnginePublic
    keyid: DigestText
    signature: Hex


def version_statement(model_id: ModelId, content_digest: Digest, lineage: dict[str, JsonValue]) -> bytes:
    """Return the bytes that a model version's publisher and the registry sign."""
    return VERSION_CONTEXT + bytes.fromhex(
        digest_document({"model_id": model_id, "content_digest": content_digest, "lineage": lineage})
    )


def audit_statement(version_id: VersionId, audit: dict[str, JsonValue], recorded_by: str, recorded_at: str) -> bytes:
    """Return the bytes that the registry signs for a privacy audit of a version: who told it, when (RFC 3339), and
    what.
    """
    told = {"version_id": version_id, "audit": audit, "recorded_by": recorded_by, "recorded_at": recorded_at}
    return AUDIT_CONTEXT + bytes.fromhex(digest_document(told))
