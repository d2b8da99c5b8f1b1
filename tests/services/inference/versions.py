"""A version of recipe `tabular` that was trained here, with its evidence of a federation that can sign everything."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.recipes.test_tabular import made, trained
from tests.shared.transparency.bundles import Federation
from undersong.recipes.prediction import Predictor, predictor_of
from undersong.recipes.tabular import RECIPE
from undersong.services.inference.settings import InferenceSettings
from undersong.shared.ids import digest_of
from undersong.shared.learning.tensors import Model, save
from undersong.shared.transparency.evidence import VersionEvidence
from undersong.shared.wire.canonical import digest_document
from undersong.shared.wire.manifest import DataRef, RecipeRef, RoundManifest, SignedManifest, version_statement
from undersong.shared.wire.profiles import Column

LABELS = {
    "binary": Column(name="y", type="category", categories=("no", "yes")),
    "multiclass": Column(name="y", type="category", categories=("low", "mid", "high")),
    "regression": Column(name="y", type="number"),
}


@dataclass
class Trained(Federation):
    """A federation whose trained version is a real model."""

    task: str = "binary"
    seed: int = 1
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        data = made(task=self.task)
        self.params = {"task": self.task, "classes": 3} if self.task == "multiclass" else {"task": self.task}
        schema, tensors = trained(data, self.params, rounds=2, seed=self.seed)
        self.content = save(Model(schema, tensors))
        names = tuple(column.name for column in data.columns)
        columns = (*data.columns, LABELS[self.task])
        self.data = DataRef(dataset="made", features=names, label="y", columns=columns)
        self.recipe = RecipeRef(name="tabular", digest=RECIPE.spec.digest, params=self.params)
        self.evidence = self.bundle()

    def signed(self, manifest: RoundManifest) -> SignedManifest:
        return super().signed(manifest.model_copy(update={"recipe": self.recipe, "data": self.data}))

    def version(self, number: int, plan: RoundManifest, contributors: int, **more: Any) -> VersionEvidence:
        """Return a version; the newest one's content is the model."""
        data = plan.data.model_dump(mode="json")
        about = {"recipe": {"name": plan.recipe.name, "digest": plan.recipe.digest}, "data": data}
        found = super().version(number, plan, contributors, **more)
        lineage = {**found.lineage, **about, "dataset_schema_digest": digest_document(data)}
        content = digest_of(self.content) if str(plan.kind) == "train" and number == 2 else found.content_digest
        statement = version_statement(plan.model_id, content, lineage)
        signatures = [
            {"role": role, "keyid": who.keyid, "signature": who.private_key.sign(statement).hex()}
            for role, who in (("publisher", self.identities["aggregator"]), ("registry", self.identities["registry"]))
        ]
        document = {**found.model_dump(mode="json"), "content_digest": content, "lineage": lineage}
        return VersionEvidence.model_validate({**document, "signatures": signatures})

    @property
    def predictor(self) -> Predictor:
        return predictor_of(self.content, self.recipe, self.data)

    def files(self, folder: Path) -> dict[str, Any]:
        """Write the files, and return the settings that serve them."""
        model, evidence = folder / "model.safetensors", folder / "evidence.json"
        model.write_bytes(self.content)
        evidence.write_bytes(self.evidence.pack())
        return {"model_file": model, "evidence_file": evidence, "ca_fingerprint": self.fingerprint}

    def settings(self, folder: Path, **more: Any) -> InferenceSettings:
        return InferenceSettings(**{**self.files(folder), **more})
