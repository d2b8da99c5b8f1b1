"""What the registry answers, and what it is asked, as documents."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictFloat, StrictInt, StringConstraints

from undersong.services.registry.domain import NAME_PATTERN, Evaluation, RegisteredModel, Version
from undersong.shared.ids import Digest
from undersong.shared.wire.forms import DigestText

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
        """The document as it was sent."""
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


class AliasRequest(Body):
    """Where an alias shall point."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version_id": "ver_01k5"}]})
    version_id: Text


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
        """The model as a document."""
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
        """The evaluation as a document."""
        return cls(
            metrics=dict(evaluation.metrics),
            recorded_at=evaluation.recorded_at,
            recorded_by=evaluation.recorded_by,
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
    deleted_at: datetime | None = None
    deletion_reason: str | None = None

    @classmethod
    def fields_of(cls, version: Version) -> dict[str, Any]:
        """The fields that summary and full view share."""
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
            "deleted_at": version.tombstone.deleted_at if version.tombstone else None,
            "deletion_reason": version.tombstone.reason if version.tombstone else None,
        }

    @classmethod
    def of(cls, version: Version) -> "VersionSummary":
        """The version without its tensors."""
        return cls(**cls.fields_of(version))


class VersionView(VersionSummary):
    """One immutable version of a model, with its tensors and evaluations."""

    tensors: list[dict[str, JsonValue]] = Field(serialization_alias="schema", description="name, shape, dtype, role")
    evaluations: list[EvaluationView]

    @classmethod
    def of(cls, version: Version) -> "VersionView":
        """The whole version."""
        return cls(
            **cls.fields_of(version),
            tensors=[dict(tensor) for tensor in version.content.tensors],
            evaluations=[EvaluationView.of(evaluation) for evaluation in version.evaluations],
        )
