"""A document's JSON schema as tables: one for the document, one for each part, headed by the path to it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from undersong.reference.tables import plain, sentence, table, value

Schema = Mapping[str, Any]
_NO_CONTROL: Final = r"^[^\x00-\x1f\x7f]+$"
_ENDS: Final = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "above"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "below"),
)
_NAMES: Final = {
    "integer": "integer",
    "number": "number",
    "boolean": "`true` or `false`",
    "null": "`null`",
}


@dataclass
class Pages:
    """Sections for one JSON schema; `found` remembers the heading under which a part is described."""

    schema: Schema
    level: int = 2
    found: dict[str, str] = field(default_factory=dict)

    def sections(self, title: str, prefix: str = "") -> str:
        """Return the section `title` for the document and one for each of its parts; `prefix` begins their paths."""
        return self._section(title, self.schema, prefix, self.level)

    def _section(self, heading: str, schema: Schema, path: str, level: int) -> str:
        """Return one part's heading, description and table, and after it those of the parts in it."""
        inner: list[tuple[str, str]] = []
        rows = []
        required = set(schema.get("required", ()))
        for name, entry in schema.get("properties", {}).items():
            inner += self._parts(entry, f"{path}{name}")
            default = "required" if name in required else self._default(entry)
            rows.append((f"`{name}`", self.kind(entry), default, sentence(entry.get("description", ""))))
        about = plain(schema.get("description", ""))
        parts = [f"{'#' * level} {heading}\n", f"{about}\n" if about else "", table(_TITLES, rows)]
        parts += [
            self._section(f"`{place}`", self._resolved(reference), f"{place}.", self.level + 1)
            for reference, place in inner
        ]
        return "\n".join(part for part in parts if part)

    def _parts(self, entry: Schema, place: str) -> Iterator[tuple[str, str]]:
        """Yield every part that is described for the first time, with its path."""
        reference = entry.get("$ref")
        if reference is not None:
            if "properties" in self._resolved(reference) and reference not in self.found:
                self.found[reference] = place
                yield reference, place
            return
        for branch in (*entry.get("anyOf", ()), *entry.get("allOf", ())):
            yield from self._parts(branch, place)
        for branch in entry.get("oneOf", ()):
            yield from self._parts(branch, f"{place}: {self._tag(branch)}")
        if isinstance(entry.get("items"), Mapping):
            yield from self._parts(entry["items"], f"{place}[]")
        if isinstance(entry.get("additionalProperties"), Mapping):
            yield from self._parts(entry["additionalProperties"], f"{place}.NAME")

    def kind(self, entry: Schema, *, brief: bool = False) -> str:
        """Return what values an entry takes, in words; `brief` leaves their limits out."""
        if "$ref" in entry:
            resolved, place = self._resolved(entry["$ref"]), self.found.get(entry["$ref"])
            label = (place or "").partition(": ")[2] or "mapping"
            return self.kind(resolved, brief=brief) if place is None else f"[{label}](#{anchor(place)})"
        if "enum" in entry or "const" in entry:
            return choice(entry.get("enum", [entry.get("const")]))
        branches = (*entry.get("anyOf", ()), *entry.get("oneOf", ()))
        if branches:
            kinds = [self.kind(branch, brief=brief) for branch in branches if branch != {"type": "null"}]
            return " or ".join(dict.fromkeys(kinds))
        kind = entry.get("type")
        if kind == "array":
            return self._list(entry)
        if kind == "object":
            inner = next(iter(entry.get("patternProperties", {}).values()), entry.get("additionalProperties"))
            return f"mapping of names to {self.kind(inner, brief=True)}" if isinstance(inner, Mapping) else "mapping"
        if kind is None:
            return "any value"
        if kind == "string":
            return "text" if brief else _text(entry)
        ends = [f"{words} {_number(entry[key])}" for key, words in _ENDS if key in entry and not brief]
        return ", ".join([_NAMES[kind], *ends])

    def _list(self, entry: Schema) -> str:
        if "prefixItems" in entry:
            return f"[{', '.join(self.kind(item, brief=True) for item in entry['prefixItems'])}]"
        return f"list of {self.kind(entry.get('items', {}), brief=True)}{_length(entry, 'Items', 'entries')}"

    def _default(self, entry: Schema) -> str:
        parted = any(True for _ in _references(entry)) and isinstance(entry.get("default"), Mapping)
        return "–" if parted else value(entry.get("default"))

    def _resolved(self, reference: str) -> Schema:
        found: Schema = self.schema["$defs"][reference.rpartition("/")[2]]
        return found

    def _tag(self, entry: Schema) -> str:
        """Return the choices of the field that tells one branch from another."""
        fields = self._resolved(entry["$ref"])["properties"].values()
        tag = next(each for each in fields if "enum" in each or "const" in each)
        return ", ".join(str(one) for one in tag.get("enum", [tag.get("const")]))


_TITLES: Final = ("field", "values", "default", "meaning")


def undescribed(schema: Schema) -> list[str]:
    """Return every field of the schema and its parts that has no description."""
    parts = {"": schema, **schema.get("$defs", {})}
    return [
        f"{name or schema.get('title')}.{key}"
        for name, part in parts.items()
        for key, entry in part.get("properties", {}).items()
        if not entry.get("description")
    ]


def anchor(heading: str) -> str:
    """Return the fragment by which GitHub and mkdocs link to a heading."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()))


def choice(values: Any) -> str:
    """Return a list of choices."""
    return " or ".join(f"`{one}`" if one not in ("", " ") else f'`"{one}"`' for one in values)


def _text(entry: Schema) -> str:
    kind = {"path": "path", "password": "text, secret"}.get(entry.get("format", ""), "text")
    if entry.get("minLength") == entry.get("maxLength") == 1:
        return "one character"
    pattern = entry.get("pattern")
    form = f" of the form `{pattern}`" if pattern not in (None, _NO_CONTROL) else ""
    return kind + _length(entry, "Length", "characters") + form


def _length(entry: Schema, noun: str, unit: str) -> str:
    least, most = entry.get(f"min{noun}", 0), entry.get(f"max{noun}")
    if most is None:
        return f", at least {least} {unit}" if least > 1 else ""
    return f", {least} to {most} {unit}"


def _number(end: float) -> str:
    return str(int(end)) if float(end).is_integer() else str(end)


def _references(entry: Schema) -> Iterator[str]:
    if "$ref" in entry:
        yield entry["$ref"]
    for branch in entry.get("anyOf", ()):
        yield from _references(branch)
