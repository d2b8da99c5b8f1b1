"""The base of every document on the wire, and the types of its fields."""

import unicodedata
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from undersong.shared.ids import Digest
from undersong.shared.wire.canonical import digest_document

Hex = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{2})+$", max_length=4096)]
DigestText = Annotated[Digest, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SignatureHex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def controls(text: str) -> bool:
    """Return whether a text for people holds characters that can hide or reorder what is shown: controls, formats,
    surrogates.

    Line feeds are allowed.
    """
    return any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and char != "\n" for char in text)


def _one_line(text: str) -> str:
    if controls(text) or "\n" in text:
        raise ValueError("control characters and invisible ones are not allowed")
    return text


OneLine = Annotated[str, AfterValidator(_one_line)]
"""A text for people that cannot hide or reorder what is shown around it."""


def is_empty(value: object) -> bool:
    """Return whether a field was left out: fields of later releases are omitted then, so that older digests still
    hold.
    """
    return not value


class Document(BaseModel):
    """A frozen document: unknown fields and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")


class Digestible(Document):
    """A document that is known by its digest, which is computed once: nothing in a document changes.

    The digest is kept in a slot, which is no field: copies, other forms and comparisons know nothing of it.
    """

    __slots__ = ("_digest",)
    _digest: ClassVar[Any]  # the slot's descriptor

    def digest(self) -> Digest:
        """SHA-256 of the canonical form."""
        try:
            kept: Digest = Digestible._digest.__get__(self)
        except AttributeError:
            kept = digest_document(self.model_dump(mode="json"))
            Digestible._digest.__set__(self, kept)
        return kept
