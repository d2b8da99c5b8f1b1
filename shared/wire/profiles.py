"""What a site tells about itself: its recipes, the shape of its data sets and its machine, never a value."""

from enum import StrEnum
from typing import Final, Literal

from pydantic import Field, JsonValue

from undersong.shared.names import hint
from undersong.shared.wire.columns import Column, ColumnType, misfit
from undersong.shared.wire.forms import Digestible, DigestText, Document, Name, is_empty
from undersong.shared.wire.manifest import DataRef

__all__ = ["Column", "DatasetSchema", "Hardware", "ProfileFault", "RecipeSpec", "SiteProfile", "Task", "schema_fault"]


MOST_CONSENTS: Final = 200


class Task(StrEnum):
    """What a recipe's model predicts; decides the layout of its evaluation sums.

    next_token: at each place of a text what follows. `summary` makes no model at all.
    """

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"
    NEXT_TOKEN = "next_token"  # noqa: S105 (a token of a text)
    SURVIVAL = "survival"
    SUMMARY = "summary"


ABOUT_TRAINING: Final = "about training"
"""The `$comment` of a parameter that changes how a model is trained, and not what the model is."""


class RecipeSpec(Document):
    """What a recipe is and takes; `params_schema` is a JSON schema.

    `inputs`: the types of columns that it takes as features. Without it a job may name columns of any type; one that
    names none gets the numbers, or the image. `record_params`: with it the recipe can protect records by noise at each
    step (see `undersong.shared.wire.privacy.NoisySteps`), if its parameters, with their defaults, fit this JSON schema
    as well. How many steps that is follows from the parameters `epochs` and `batch_size`. `grows`: no site trains; the
    model follows from several rounds of sums, by the coordinator's rule of this name. `metrics`: the names of means
    that its evaluations report, in place of the metrics of `task`.
    `reduces`: of what the recipe adds up before it trains, sites are told what the rule of this name makes of the sums.
    """

    name: Name
    version: Name
    digest: DigestText
    task: Task
    params_schema: dict[str, JsonValue] = Field(default_factory=dict)
    statistics: bool = Field(default=False, strict=True)
    description: str = Field(default="", max_length=2000)
    classes: int | None = Field(default=None, ge=2, le=1000, strict=True)
    inputs: tuple[ColumnType, ...] | None = None
    record_params: dict[str, JsonValue] | None = None
    grows: Literal["trees"] | None = None
    metrics: tuple[Name, ...] = Field(default=(), max_length=8, exclude_if=is_empty)
    reduces: Literal["vocabulary"] | None = Field(default=None, exclude_if=is_empty)


Part = Literal["train", "validation", "test"]
"""What rows of a data set are for; rows of the test part are never trained on."""


class DatasetSchema(Digestible):
    """A data set's shape as its site declares it; `parts` are those that its rows are divided into."""

    name: Name
    kind: Name
    columns: tuple[Column, ...]
    label: Name | None = None
    rows: int | None = Field(default=None, ge=0, strict=True)
    parts: tuple[Part, ...] = Field(default=(), max_length=3, exclude_if=is_empty)


class Hardware(Document):
    """The machine that training runs on."""

    cpus: int = Field(ge=1, strict=True)
    memory_bytes: int = Field(ge=0, strict=True)
    gpus: tuple[str, ...] = ()
    device: Name = "cpu"


class Alarm(Document):
    """Something that the site's agent found and that a person must look at, such as two transparency logs."""

    kind: Name
    detail: str = Field(max_length=1000)


_FAULTS: Final = {
    "policy-unreadable": "its policy cannot be read",
    "policy-signature": "its policy is not signed by its owners",
    "site-unreadable": "its agent cannot read what the site has",
    "datasets-unreadable": "its datasets.yaml declares nothing that can be read",
}


class ProfileFault(Document):
    """Why a site can do no work, or (`dataset`) none on one data set. The reason stays at the site."""

    code: Name
    dataset: Name | None = None

    @property
    def sentence(self) -> str:
        """The fault in a few words, after the site's name."""
        if self.dataset is not None:
            return f"its data set {self.dataset!r} cannot be read"
        return _FAULTS.get(self.code, self.code)


class ConsentNote(Document):
    """That a job waits for the consent of the site's owner, or was denied it. Who is asked, and why, stays there."""

    job_id: Name
    state: Literal["waiting", "denied"]


class SiteProfile(Document):
    """A site's public profile, sent when its agent starts and when it changes."""

    agent_version: Name
    protocol: int = Field(ge=1, strict=True)
    recipes: tuple[RecipeSpec, ...] = ()
    datasets: tuple[DatasetSchema, ...] = ()
    hardware: Hardware
    runner: Name = "process"
    alarms: tuple[Alarm, ...] = Field(default=(), max_length=50)
    faults: tuple[ProfileFault, ...] = Field(default=(), max_length=50)
    consents: tuple[ConsentNote, ...] = Field(default=(), max_length=MOST_CONSENTS)


def schema_fault(own: DatasetSchema, asked: DataRef) -> str | None:
    """Return why this site's data set does not mean what all sites agreed on for the round; None where it does."""
    columns = {column.name: column for column in own.columns}
    for agreed in asked.columns:
        if agreed.name not in columns:
            return f"the data set {own.name!r} has no column {agreed.name!r} here{hint(agreed.name, columns)}"
        fault = misfit(columns[agreed.name], agreed, listed=agreed.name in asked.listed)
        if fault is not None:
            return f"data set {own.name!r}: {fault}"
    return None
