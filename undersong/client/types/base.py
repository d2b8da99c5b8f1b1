"""What every answer has, and pages of lists."""

from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr

from undersong.client.showing import html_of

T = TypeVar("T")


class Answer(BaseModel):
    """The base of every answer: frozen, tolerant of fields that are newer than this client."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=(), defer_build=True)
    _client: Any = PrivateAttr(default=None)

    def asked_by(self, client: object) -> Self:
        """Keep the client that asked, so that the answer can ask for more (`frames`)."""
        self._client = client
        return self

    def _repr_html_(self) -> str:
        """Return a table of the fields, for notebooks."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        named = fields.pop("name", None) or fields.get("id", "")
        return html_of(f"{type(self).__name__} {named}", fields, state=str(fields.pop("state", "")))


class Page(Answer, Generic[T]):
    """One page of a list; `next` continues it."""

    items: list[T]
    next: str | None = None
