"""The privacy datasheet of a model version: what is claimed of it, for whom, under which assumptions, and what is not.

The coordinator makes it from what it published and signs its digest; its holder checks it against the federation's
authority. How it is made is in `undersong.shared.transparency.datasheet_making`, how it reads in
`undersong.shared.transparency.datasheet_words`.
"""

from typing import Annotated, Final, Literal

from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import AwareDatetime, Field, JsonValue, StrictBool, StrictFloat, StrictInt, StringConstraints

from undersong.shared.errors import Forbidden, Refusal
from undersong.shared.identity.authority import Identity, Subject, keyid_of, verify_signature
from undersong.shared.ids import FederationId, JobId, ModelId, RoundId, SiteId, VersionId
from undersong.shared.transparency.certificates import plain_fingerprint, read_authority, read_holder
from undersong.shared.transparency.ledger_heads import LedgerHead
from undersong.shared.wire.forms import Digestible, DigestText, Document, Name, SignatureHex, is_empty
from undersong.shared.wire.privacy import (
    AdaptiveClip,
    CorrelatedNoise,
    Delta,
    Noise,
    NoisySteps,
    PrivacyModel,
    PrivacyUnit,
)
from undersong.shared.wire.records import BytesHex

FORMAT: Final = "undersong-datasheet/1"
DATASHEET_CONTEXT: Final = b"undersong/datasheet/1"
COORDINATOR: Final = "coordinator"
Sentence = Annotated[str, StringConstraints(max_length=2000)]
Count = Annotated[StrictInt, Field(ge=0, le=10**9)]


class DatasheetInvalid(Forbidden):
    """The datasheet does not carry the signature of this federation's coordinator."""


class SheetRecipe(Document):
    """The recipe that trained the version; the digest is that of its source."""

    name: Name
    digest: DigestText


class SheetSubject(Document):
    """Which version the sheet is about, and where its evidence is.

    parents: the versions it was trained from. job_id and round_id are null for a version brought in from outside.
    log_entry: the place of the round's record in the transparency log, where the keys service told it.
    """

    version_id: VersionId
    model_id: ModelId
    model: Name
    number: StrictInt = Field(ge=0)
    federation_id: FederationId
    content_digest: DigestText
    parents: tuple[VersionId, ...] = ()
    job_id: JobId | None = None
    job: Name | None = None
    round_id: RoundId | None = None
    recipe: SheetRecipe | None = None
    log_entry: StrictInt | None = Field(default=None, ge=0)


class SheetData(Document):
    """A data set that the version, or one it was trained from, depends on.

    rounds: how many rounds released something of it. fewest_sites, most_sites: how many sites were in one sum.
    """

    dataset: Name
    features: tuple[Name, ...] = ()
    label: Name | None = None
    rounds: Count
    fewest_sites: Count | None = None
    most_sites: Count | None = None


class SheetEngine(Document):
    """An engine that summed updates or statistics, in how many rounds, and who could see a single one."""

    engine: Name
    rounds: Count
    min_cohort: Count
    protection: Sentence
    collusion: Sentence


class SheetMechanism(Document):
    """Noise of one kind and strength: standard deviation `noise_multiplier`, in units of what one unit can change.

    clip_norm: the L2 norm to which a site's update is clipped, or with `steps` each record's gradient; null for
    statistics, where each measure has a bound of its own, and where it moves: clip_path is then that of each round, in
    the order in which they were made, towards the quantile of `adaptive_clip`. steps: of a recipe that adds noise as it
    trains, in each round. correlated: over the rounds of sites that take turns. released of the `planned` rounds have
    been published. min_sites: the fewest sites whose noise is counted on. colluding: sites assumed to know each other's
    noise, not counted on.
    """

    job_id: JobId
    model: PrivacyModel
    noise_multiplier: Noise
    clip_norm: StrictFloat | None = None
    min_sites: Count
    colluding: Count
    steps: NoisySteps | None = None
    adaptive_clip: AdaptiveClip | None = Field(default=None, exclude_if=is_empty)
    clip_path: tuple[StrictFloat, ...] = Field(default=(), exclude_if=is_empty)
    correlated: CorrelatedNoise | None = Field(default=None, exclude_if=is_empty)
    released: Count
    planned: Count


class SheetClaim(Document):
    """What noise bounds of one unit: (epsilon, delta)-differential privacy of the noisy releases together.

    epsilon: of the `released` rounds, up to this version. planned_epsilon: of the job's whole plan on top of what the
    version started from. Null: no finite bound was found. exact: answers without noise from the same data, beside
    which no bound holds for all releases together.
    """

    unit: PrivacyUnit
    neighbours: Name
    mechanisms: tuple[SheetMechanism, ...]
    released: Count
    epsilon: StrictFloat | None = Field(ge=0)
    delta: Delta
    planned_epsilon: StrictFloat | None = Field(ge=0)
    accountant: Name
    accountant_version: Name
    sampling: Sentence
    exact: Count


class SheetLedger(Document):
    """How far the privacy ledger of one owner had come after the last round of the version that it took part in.

    round_id: that round. head: the first head of the site's ledger that stands in the transparency log behind that
    round's record, signed by the site, at `log_entry`; null where there is none yet.
    """

    site_id: SiteId
    round_id: RoundId
    head: LedgerHead | None = None
    log_entry: StrictInt | None = Field(default=None, ge=0)


class SheetGap(Document):
    """Something of which no guarantee is given; `releases` counts it where it can be counted."""

    what: Name
    releases: Count | None = None
    why: Sentence


class SheetAudit(Document):
    """An audit of the version, as the registry holds it; `figures` has its counts, rates and intervals."""

    kind: Name
    sentence: Sentence = ""
    figures: dict[str, JsonValue] = Field(default_factory=dict)
    confidence: StrictFloat | None = None
    epsilon_lower_bound: StrictFloat | None = None
    broken: StrictBool = False
    recorded_by: Name
    recorded_at: AwareDatetime


class SheetUtility(Document):
    """Metrics of the version over all sites' rows; `groups` has those of parts of the rows, where they were computed.

    Noise costs small groups the most, so a sheet without groups says nothing about them.
    """

    metrics: dict[str, StrictFloat] = Field(default_factory=dict)
    groups: dict[str, dict[str, StrictFloat]] = Field(default_factory=dict)


class SheetMapping(Document):
    """A topic of NIST SP 800-226 and what this sheet says about it."""

    topic: Name
    section: Name
    answer: Sentence


class Datasheet(Digestible):
    """The sheet.

    unknown: versions that it descends from, or itself, whose rounds the coordinator does not know. expires_at: rely on
    it no longer than to then without a new one, for there may be new audits.
    """

    format: Literal["undersong-datasheet/1"] = FORMAT
    made_at: AwareDatetime
    expires_at: AwareDatetime
    subject: SheetSubject
    data: tuple[SheetData, ...] = ()
    engines: tuple[SheetEngine, ...] = ()
    claims: tuple[SheetClaim, ...] = ()
    gaps: tuple[SheetGap, ...] = ()
    audits: tuple[SheetAudit, ...] = ()
    claim_broken: StrictBool = False
    unknown: tuple[VersionId, ...] = ()
    ledgers: tuple[SheetLedger, ...] = ()
    utility: SheetUtility = SheetUtility()
    nist: tuple[SheetMapping, ...] = ()


class SignedDatasheet(Document):
    """A datasheet with the coordinator's Ed25519 signature over its digest, and the certificates to check it with.

    authority, certificate: of the federation's authority and of the coordinator, DER in hexadecimal.
    """

    datasheet: Datasheet
    authority: BytesHex
    certificate: BytesHex
    signature: SignatureHex


def sign_datasheet(datasheet: Datasheet, identity: Identity) -> SignedDatasheet:
    """Return the datasheet signed with this service's identity."""
    der = Encoding.DER
    return SignedDatasheet(
        datasheet=datasheet,
        authority=identity.ca_certificate.public_bytes(der).hex(),
        certificate=identity.certificate.public_bytes(der).hex(),
        signature=identity.sign(DATASHEET_CONTEXT, bytes.fromhex(datasheet.digest())).hex(),
    )


def check_datasheet(signed: SignedDatasheet, ca_fingerprint: str) -> Datasheet:
    """Return the datasheet once the coordinator of this authority's federation signed it; raises DatasheetInvalid.

    ca_fingerprint: SHA-256 of the authority's certificate, known from elsewhere.
    """
    digest = bytes.fromhex(signed.datasheet.digest())
    try:
        authority = read_authority(signed.authority)
        holder = read_holder(signed.certificate, authority)
        verify_signature(holder.public_key, DATASHEET_CONTEXT, digest, bytes.fromhex(signed.signature))
    except Refusal as refusal:
        raise DatasheetInvalid(f"the datasheet's signature does not hold: {refusal.detail}") from refusal
    if keyid_of(authority) != plain_fingerprint(ca_fingerprint):
        raise DatasheetInvalid("the authority in the datasheet is not the one that was pinned")
    if holder.subject != Subject("service", COORDINATOR):
        raise DatasheetInvalid("the certificate in the datasheet is not the coordinator's")
    return signed.datasheet
