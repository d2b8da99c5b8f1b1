"""Parts of an entry of ``datasets.yaml``: how its file is written, and which rows are for training and for the test."""

import codecs
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from undersong.shared.names import hint
from undersong.shared.yaml_texts import NOTHING

DAY_S: Final = 86_400.0
MOST_STEPS: Final = 5_000
EVERY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h|d)?")
UNITS: Final = {"s": 1 / DAY_S, "min": 60 / DAY_S, "h": 3600 / DAY_S, "d": 1.0}


def text_of(value: object) -> str:
    """Return how a scalar is written: the integer 1 and the number 1.0 as ``1``, true as ``true``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _text(value: object) -> object:
    return text_of(value) if isinstance(value, str | int | float) else value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str | int | float) else value


def maybe(value: object) -> object:
    """Return None for a text that means nothing in YAML, any other value as it is."""
    return None if isinstance(value, str) and value in NOTHING else value


def moment_of(text: str, form: str | None = None) -> float:
    """Return a moment as days since 1970-01-01: UTC where the text names no zone. Raises ValueError.

    Without a form the text is a date or a moment of ISO 8601.
    """
    moment = datetime.fromisoformat(text) if form is None else datetime.strptime(text, form)  # noqa: DTZ007
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() / DAY_S


Text = Annotated[str, BeforeValidator(_text)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed)]
Limit = Annotated[float | None, BeforeValidator(maybe)]
Name = Annotated[Text, Field(min_length=1, max_length=200)]
QueryText = Annotated[Text, Field(min_length=1, max_length=100_000)]


class OptionsForm(BaseModel):
    """A part of a declaration: nothing unknown, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CsvOptions(OptionsForm):
    """How a CSV file is written. Without options: commas, a point in numbers, UTF-8, names in the first line."""

    separator: Annotated[str, BeforeValidator(lambda v: "\t" if v in ("tab", "\\t") else v)] = Field(
        default=",", min_length=1, max_length=1, description="Character between cells, or `tab`"
    )
    decimal: Literal[".", ","] = Field(default=".", description="Character before the fraction of a number")
    thousands: Literal["", ",", ".", "'", " "] = Field(
        default="", description="Character between groups of digits; a space stands for thin spaces too; empty: none"
    )
    encoding: str = Field(default="utf-8", description="Encoding of the file, by a name that Python knows")
    quote: str = Field(
        default='"',
        max_length=1,
        description="Character around cells that hold the separator; empty: no cell is quoted",
    )
    header: int = Field(default=1, ge=0, le=1000, description="Line that holds the columns' names, from 1; 0: no line")
    names: tuple[Name, ...] = Field(default=(), description="The columns' names in order, with `header: 0`")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            known = codecs.lookup(self.encoding)
            "".encode(self.encoding)  # not every codec makes bytes of text
        except LookupError:
            known = None
        if known is None:
            raise ValueError(f"encoding {self.encoding!r} is unknown{hint(self.encoding, ENCODINGS)}")
        if self.separator in "\r\n\0" or self.quote in ("\r", "\n", "\0"):
            raise ValueError("separator and quote cannot be an end of line")
        if self.thousands and self.thousands == self.decimal:
            raise ValueError("thousands and decimal are the same character")
        if self.separator == self.quote:
            raise ValueError("separator and quote are the same character")
        if (self.header == 0) != bool(self.names):
            raise ValueError("names go with header: 0, and header: 0 needs names")
        return self


ENCODINGS: Final = ("utf-8", "utf-16", "latin-1", "cp1252", "iso8859-15", "ascii", "gb18030", "big5", "shift_jis")


class SplitOptions(OptionsForm):
    """Which rows are for training, for validation and for the test; rows of the test part are never trained on."""

    by: Literal["hash", "column", "time", "file"] = Field(
        default="hash",
        description="What divides the rows: `hash` of the place, or of `column`; `column`: its value; `time`: its "
        "moment; `file`: rows of other files",
    )
    column: Annotated[Name | None, BeforeValidator(maybe)] = Field(
        default=None,
        description="The column that decides. With `hash`, rows with the same text stay in one part, as those of one "
        "person",
    )
    train: Texts = Field(default=(), description="With `column`: values of training rows; without it all others")
    validation: Texts = Field(default=(), description="With `column`: values of validation rows")
    test: Texts = Field(default=(), description="With `column`: values of test rows")
    validation_from: Annotated[Text | None, BeforeValidator(maybe)] = Field(
        default=None,
        description="With `time`: the first moment of the validation part, which ends at `test_from`",
    )
    test_from: Annotated[Text | None, BeforeValidator(maybe)] = Field(
        default=None, description="With `time`: the first moment of the test part"
    )
    validation_file: Annotated[Path | None, BeforeValidator(maybe)] = Field(
        default=None, description="With `file`: a file of the same form with the validation rows"
    )
    test_file: Annotated[Path | None, BeforeValidator(maybe)] = Field(
        default=None, description="With `file`: a file of the same form with the test rows"
    )
    validation_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="With `hash`: share of the rows for validation, beside `test_fraction`"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        belongs = {
            "hash": ("column", "validation_fraction"),
            "column": ("column", "train", "validation", "test"),
            "time": ("column", "validation_from", "test_from"),
            "file": ("validation_file", "test_file"),
        }[self.by]
        others = sorted(set(type(self).model_fields) - {"by", *belongs})
        if given := [name for name in others if getattr(self, name) not in (None, (), 0.0)]:
            raise ValueError(f"{', '.join(given)} has no meaning with by: {self.by}, which takes {', '.join(belongs)}")
        if self.by in ("column", "time") and self.column is None:
            raise ValueError(f"by: {self.by} needs the column that decides, under column")
        if self.by != "hash" and not any(getattr(self, name) for name in belongs if name not in ("column", "train")):
            parts = " or ".join(name for name in belongs if name.startswith(("test", "validation")))
            raise ValueError(f"by: {self.by} names neither validation nor test rows: give {parts}")
        listed = [*self.train, *self.validation, *self.test]
        if twice := sorted({text for text in listed if listed.count(text) > 1}):
            raise ValueError(f"{', '.join(twice)} is listed twice")
        return self

    @property
    def files(self) -> dict[str, Path]:
        """Return the other files with rows, by the part that they are for."""
        named = {"validation": self.validation_file, "test": self.test_file}
        return {part: path for part, path in named.items() if path is not None}

    def parts(self, test_fraction: float) -> tuple[str, ...]:
        """Return the parts that the rows are divided into."""
        if self.by == "hash":
            has = {"validation": self.validation_fraction > 0, "test": test_fraction > 0}
        elif self.by == "column":
            has = {"validation": bool(self.validation), "test": bool(self.test)}
        elif self.by == "time":
            has = {"validation": self.validation_from is not None, "test": self.test_from is not None}
        else:
            has = {part: part in self.files for part in ("validation", "test")}
        return ("train", *(part for part, there in has.items() if there))


class SeriesOptions(OptionsForm):
    """Windows of a series: each is a row for recipes, the last values of a time and the target some steps later."""

    time: Name = Field(description="The column of moments, sorted, each once (in each group)")
    target: Name = Field(description="The number column whose later value models predict")
    horizon: int = Field(default=1, ge=1, le=MOST_STEPS, description="How many steps after the last input")
    lags: int = Field(ge=1, le=MOST_STEPS, description="How many steps of each column are inputs")
    step: int = Field(default=1, ge=1, le=MOST_STEPS, description="Rows between the beginnings of two windows")
    group: Annotated[Name | None, BeforeValidator(maybe)] = Field(
        default=None, description="The column that tells several series apart, such as a sensor's name"
    )
    known: Texts = Field(
        default=(),
        description="Columns that are known in advance, such as the hour or a forecast of the weather: their value at "
        "the moment that is predicted is an input too",
    )
    every: Annotated[Text | None, BeforeValidator(maybe)] = Field(
        default=None,
        description="The distance of two steps: `5 min`, `1 h`, `1 d` for dates, else a number; windows over another "
        "distance are left out",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.every is not None and self.every_step is None:
            raise ValueError(f"every: {self.every!r} is no distance: 30 s, 5 min, 1 h, 1 d, or a number")
        if len({self.time, self.target, self.group}) < 3:
            raise ValueError("time, target and group are different columns")
        if self.target in self.known:
            raise ValueError(f"known: {self.target} is what is predicted, and not known in advance")
        if twice := sorted({name for name in self.known if self.known.count(name) > 1}):
            raise ValueError(f"known: {', '.join(twice)} is listed twice")
        return self

    @property
    def every_step(self) -> float | None:
        """Return the distance in the time column's own unit, days for dates; None where there is none."""
        found = EVERY.fullmatch(self.every or "")
        if found is None or not 0 < float(found[1]) < math.inf:
            return None
        return float(found[1]) * UNITS.get(found[2], 1.0)

    @property
    def label(self) -> str:
        """The name of what models predict."""
        return f"{self.target}@+{self.horizon}"


class ImageOptions(OptionsForm):
    """The images of a data set whose manifest names a file in each row."""

    folder: Annotated[Path, BeforeValidator(maybe)] = Field(
        description="The folder below which the files lie that the manifest names; whatever else lies there can be read"
    )
    height: int = Field(ge=1, le=4096, description="Pixels from top to bottom")
    width: int = Field(ge=1, le=4096, description="Pixels from left to right")
    channels: Literal["grey", "rgb"] = Field(default="rgb", description="What a pixel holds")
    fit: bool = Field(
        default=False,
        description="Scale images of another size, and convert those with other channels; without it they are errors",
    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return (1 if self.channels == "grey" else 3, self.height, self.width)


class SqlOptions(OptionsForm):
    """A query whose rows the agent keeps in a snapshot; the database is only read."""

    url_file: Annotated[Path, BeforeValidator(maybe)] = Field(
        description="A file with one line, the database's URL with user and password: "
        "`postgresql://USER:PASSWORD@HOST/DATABASE`, or `sqlite:////FILE`"
    )
    query: QueryText = Field(description="One SELECT; its columns are the columns of the data set")
    row_limit: int = Field(
        default=1_000_000, ge=1, le=100_000_000, description="The most rows; a query that has more is an error"
    )
    timeout_s: int = Field(default=60, ge=1, le=86_400, description="Seconds that the query may take")
    refresh_s: Annotated[int | None, BeforeValidator(maybe), Field(ge=60)] = Field(
        default=None,
        description="Age in seconds at which the agent, while it has no work, asks again; without it only when this "
        "declaration or the file of the URL changes",
    )

    @field_validator("url_file", mode="before")
    @classmethod
    def _no_url(cls, value: object) -> object:
        if isinstance(value, str) and "://" in value:  # pathlib would make of // one /
            raise ValueError(
                "is the path of a file that holds the URL, and no URL: it has a password, which stays there"
            )
        return value
