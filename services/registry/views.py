"""What the registry answers, and what it is asked, as documents."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictFloat, StrictInt, StringConstraints

from undersong.services.registry.domain import NAME_PATTERN, Action, Audit, Evaluation, RegisteredModel, Version
from undersong.shared.ids import Digest
from undersong.shared.wire.forms import DigestText, OneLine

Text = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=64, pattern=r"^[!-~]+$")]
Metrics = Annotated[dict[Annotated[str, Field(max_length=80)], StrictInt | StrictFloat], Field(max_length=200)]
_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class Body(BaseModel):
    """Requests name their fields exactly; numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelRequest(Body):
    """A new model."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"federation_id": "fed_01k5", "name": "heart"}]})
    federation_id: Text
    name: str = Field(pattern=NAME_PATTERN, description="Unique in its federation")


class RecipeName(BaseModel):
    """The recipe that made a version."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    name: str = Field(max_length=100)
    digest: DigestText


class Lineage(BaseModel):
    """Where a version comes from. Further fields are kept as they are; the publisher signs all of them."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue]

    kind: Annotated[str, StringConstraints(strict=True, pattern=r"^[a-z][a-z-]{0,39}$")] = Field(
        description="initialise, train, or import for a model from outside"
    )
    job_id: Text | None = None
    round_id: Text | None = None
    parents: list[Text] = Field(default_factory=list, max_length=64)
    recipe: RecipeName | None = None
    dataset_schema_digest: DigestText | None = None
    metrics: Metrics = Field(default_factory=dict)
    strategy: JsonValue = None
    contributors: int | None = Field(None, ge=0, strict=True)

    def as_signed(self) -> dict[str, Any]:
        """Return the document as it was sent."""
        return self.model_dump(mode="python", exclude_unset=True)


class VersionRequest(Body):
    """A new version. Its content must be uploaded before."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "content_digest": _DIGEST,
                    "lineage": {"kind": "train", "job_id": "job_01k5", "round_id": "rnd_01k5", "parents": ["ver_01k4"]},
                    "publisher_keyid": _DIGEST,
                    "publisher_signature": "00" * 64,
                }
            ]
        }
    )
    content_digest: DigestText = Field(description="SHA-256 of the safetensors file")
    lineage: Lineage
    publisher_keyid: DigestText | None = Field(None, description="Certificate of the signer; services must sign")
    publisher_signature: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{128}$",
        description='Ed25519 over "undersong/version/1\\0" || SHA-256 of canonical {model_id, content_digest, lineage}',
    )


class MetricsRequest(Body):
    """Metrics measured after publication."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metrics": {"accuracy": 0.84, "auc": 0.91}}]})
    metrics: Metrics = Field(min_length=1)


class AuditClaim(Body):
    """The epsilon that an audit's lower bound is compared with."""

    epsilon: float = Field(gt=0, le=1000, strict=True)
    delta: float = Field(gt=0, lt=1, strict=True)
    unit: Literal["site", "record"] | None = None


class AuditRequest(Body):
    """What a privacy audit of a version found: counts and rates, never rows."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "one-run-mechanism",
                    "sentence": "98 of 100 guesses about 1000 canary sites were right.",
                    "figures": {"canaries": 1000, "guesses": 100, "right": 98},
                    "confidence": 0.95,
                    "epsilon_lower_bound": 2.69,
                    "claim": {"epsilon": 2.0, "delta": 1e-6, "unit": "site"},
                }
            ]
        }
    )
    kind: Literal["loss-threshold", "lira-offline", "one-run-training", "one-run-mechanism", "gradient-inversion"]
    sentence: str = Field("", max_length=1000, description="The result for people")
    figures: dict[Annotated[str, Field(max_length=80)], JsonValue] = Field(default_factory=dict, max_length=100)
    confidence: float = Field(gt=0, lt=1, strict=True, description="Of the bound and of each interval in `figures`")
    epsilon_lower_bound: float | None = Field(
        None, ge=0, le=1000, strict=True, description="The epsilon that the audit refutes"
    )
    claim: AuditClaim | None = Field(None, description="What the bound speaks about; above it the claim is broken")


class AliasRequest(Body):
    """Where an alias shall point."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version_id": "ver_01k5", "reason": "best auc on the held-out sites"}]}
    )
    version_id: Text
    reason: Annotated[OneLine, StringConstraints(strict=True, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")] = Field(
        "", description="Why, for the audit trail"
    )


class AliasChangeView(BaseModel):
    """One change of an alias."""

    at: datetime
    by: str = Field(description="The id of the user, or the name of the service")
    alias: str
    version_id: str | None = Field(description="Where it points since; null where it was removed")
    before: str | None = Field(description="Where it pointed before; null where that is not known")
    reason: str

    @classmethod
    def of(cls, action: Action) -> "AliasChangeView":
        """From the audit trail."""
        told = action.detail
        return cls(
            at=action.at,
            by=action.actor,
            alias=str(told.get("alias", "")),
            version_id=told.get("version_id"),
            before=told.get("before"),
            reason=str(told.get("reason") or ""),
        )


class ModelView(BaseModel):
    """A named line of versions within one federation."""

    id: str
    federation_id: str
    name: str
    aliases: dict[str, str] = Field(description="Alias to version id")
    versions: int = Field(description="How many were ever published")
    created_at: datetime
    created_by: str

    @classmethod
    def of(cls, model: RegisteredModel) -> "ModelView":
        """Return the model as a document."""
        return cls(
            id=model.id,
            federation_id=model.federation_id,
            name=model.name,
            aliases=dict(model.aliases),
            versions=model.versions,
            created_at=model.created_at,
            created_by=model.created_by,
        )


class ContentView(BaseModel):
    """Stored content."""

    digest: Digest
    size: int = Field(description="Bytes")


class SignatureView(BaseModel):
    """An Ed25519 signature over the version's statement."""

    role: str = Field(description="publisher or registry")
    keyid: str
    signature: str


class EvaluationView(BaseModel):
    """Metrics measured after publication."""

    metrics: dict[str, int | float]
    recorded_at: datetime
    recorded_by: str

    @classmethod
    def of(cls, evaluation: Evaluation) -> "EvaluationView":
        """Return the evaluation as a document."""
        return cls(
            metrics=dict(evaluation.metrics),
            recorded_at=evaluation.recorded_at,
            recorded_by=evaluation.recorded_by,
        )


class AuditView(BaseModel):
    """A privacy audit after publication, with the registry's signature over it."""

    document: dict[str, JsonValue] = Field(description="As it was sent: kind, sentence, figures, bound and claim")
    broken: bool = Field(description="Its lower bound on epsilon is above the claim")
    recorded_at: datetime
    recorded_by: str
    keyid: str
    signature: str = Field(
        description='Ed25519 over "undersong/audit/1\\0" || SHA-256 of canonical {version_id, audit, recorded_by, '
        "recorded_at}"
    )

    @classmethod
    def of(cls, audit: Audit) -> "AuditView":
        """Return the audit as a document."""
        return cls(
            document=dict(audit.document),
            broken=audit.broken,
            recorded_at=audit.recorded_at,
            recorded_by=audit.recorded_by,
            keyid=audit.keyid,
            signature=audit.signature,
        )


class VersionSummary(BaseModel):
    """One immutable version of a model."""

    id: str
    model_id: str
    federation_id: str
    number: int = Field(description="From 0, without gaps")
    content_digest: str = Field(description="SHA-256 of the file")
    tensor_digest: str = Field(description="SHA-256 of the tensors, whatever file holds them")
    size: int = Field(description="Bytes of the file")
    lineage: dict[str, JsonValue]
    metrics: dict[str, int | float] = Field(description="From the lineage, overlaid with later evaluations")
    signatures: list[SignatureView]
    created_at: datetime
    created_by: str
    claim_broken: bool = Field(False, description="A privacy audit found a lower bound on epsilon above the claim")
    deleted_at: datetime | None = None
    deletion_reason: str | None = None

    @classmethod
    def fields_of(cls, version: Version) -> dict[str, Any]:
        """Return the fields that summary and full view share."""
        metrics = dict(version.lineage.get("metrics") or {})
        for evaluation in version.evaluations:
            metrics.update(evaluation.metrics)
        return {
            "id": version.id,
            "model_id": version.model_id,
            "federation_id": version.federation_id,
            "number": version.number,
            "content_digest": version.content.digest,
            "tensor_digest": version.content.tensor_digest,
            "size": version.content.size,
            "lineage": dict(version.lineage),
            "metrics": metrics,
            "signatures": [
                SignatureView(role=s.role, keyid=s.keyid, signature=s.signature) for s in version.signatures
            ],
            "created_at": version.created_at,
            "created_by": version.created_by,
            "claim_broken": version.claim_broken,
            "deleted_at": version.tombstone.deleted_at if version.tombstone else None,
            "deletion_reason": version.tombstone.reason if version.tombstone else None,
        }

    @classmethod
    def of(cls, version: Version) -> "VersionSummary":
        """Return the version without its tensors."""
        return cls(**cls.fields_of(version))


class VersionView(VersionSummary):
    """One immutable version of a model, with its tensors, evaluations and audits."""

    tensors: list[dict[str, JsonValue]] = Field(serialization_alias="schema", description="name, shape, dtype, role")
    evaluations: list[EvaluationView]
    audits: list[AuditView] = Field(default_factory=list)

    @classmethod
    def of(cls, version: Version) -> "VersionView":
        """Return the whole version."""
        return cls(
            **cls.fields_of(version),
            tensors=[dict(tensor) for tensor in version.content.tensors],
            evaluations=[EvaluationView.of(evaluation) for evaluation in version.evaluations],
            audits=[AuditView.of(audit) for audit in version.audits],
        )
