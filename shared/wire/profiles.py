"""What a site tells about itself: its recipes, the shape of its data sets and its machine, never a value."""

from enum import StrEnum
from typing import Literal

from pydantic import Field, JsonValue

from shared.wire.manifest import Digestible, DigestText, Document, Name


class Task(StrEnum):
    """What a recipe's model predicts; decides the layout of its evaluation sums. `summary` makes no model at all."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"
    SUMMARY = "summary"


class RecipeSpec(Document):
    """What a recipe is and takes; `params_schema` is a JSON schema."""

    name: Name
    version: Name
    digest: DigestText
    task: Task
    params_schema: dict[str, JsonValue] = Field(default_factory=dict)
    statistics: bool = Field(default=False, strict=True)
    description: str = Field(default="", max_length=2000)
    classes: int | None = Field(default=None, ge=2, le=1000, strict=True)


class Column(Document):
    """One column; `categories` lists a category column's values in their fixed order."""

    name: Name
    type: Literal["number", "category", "image", "text"]
    categories: tuple[str, ...] | None = None


class DatasetSchema(Digestible):
    """A data set's shape as its site declares it."""

    name: Name
    kind: Name
    columns: tuple[Column, ...]
    label: Name | None = None
    rows: int | None = Field(default=None, ge=0, strict=True)


class Hardware(Document):
    """The machine that training runs on."""

    cpus: int = Field(ge=1, strict=True)
    memory_bytes: int = Field(ge=0, strict=True)
    gpus: tuple[str, ...] = ()
    device: Name = "cpu"


class SiteProfile(Document):
    """A site's public profile, sent when its agent starts and when it changes."""

    agent_version: Name
    protocol: int = Field(ge=1, strict=True)
    recipes: tuple[RecipeSpec, ...] = ()
    datasets: tuple[DatasetSchema, ...] = ()
    hardware: Hardware
    runner: Name = "process"
