"""YAML without YAML's guesses: `no`, `on`, `12:30`, `010` and `2020-01-31` are read as written, as texts.

`load_document` reads the scalars that JSON has (true, false, null, decimal numbers), as YAML 1.2 does; `load_texts`
reads none, for files whose fields have types of their own. Neither takes a mapping that says one thing twice.
"""

import re
from collections import Counter
from typing import Any

import yaml

NOTHING = ("", "~", "null")
"""How YAML spells an empty value."""

_MOST_PLACES = 100_000  # of a document whose lines are looked for: aliases can multiply what is short
_BREAKS = frozenset("\x85\u2028\u2029")
_HALVES = re.compile("[\ud800-\udfff]")
_WHOLE = "(?:0|[1-9][0-9]*)"
_SCALARS = (
    ("bool", "true|false|True|False|TRUE|FALSE", "tTfF"),
    ("null", "~|null|Null|NULL|", "~nN"),
    ("int", f"[-+]?{_WHOLE}", "-+0123456789"),
    ("float", rf"[-+]?(?:{_WHOLE}\.[0-9]*|\.[0-9]+|{_WHOLE}(?=[eE]))(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", "<<", "<"),
)


class NotYaml(ValueError):
    """The text is no YAML document that says each thing once."""


def _whole(text: str, node: yaml.Node) -> str:
    """Join the halves of characters that JSON escapes in two; raises for half a character, which no file can hold."""
    if not _HALVES.search(text):
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise yaml.constructor.ConstructorError(None, None, "half a character", node.start_mark) from None


class _Texts(yaml.BaseLoader):
    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        """Return a text of whole characters."""
        return _whole(super().construct_scalar(node), node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a mapping that says one thing twice: YAML would keep the last."""
        _once(node)
        return super().construct_mapping(node, deep)


class _Plain(yaml.SafeLoader):
    """Without the resolvers of YAML 1.1; see `_SCALARS`."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (as the library has it)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """Return a text of whole characters."""
        return _whole(super().construct_scalar(node), node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a mapping that says one thing twice."""
        _once(node)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or `load_document` would read as another type than text."""


for _tag, _form, _first in _SCALARS:
    _starts = [*_first, *([""] if _tag == "null" else [])]
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_form})$"), _starts)
    _Plain.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_form})$"), _starts)


def load_texts(text: str) -> Any:
    """Return a document of dictionaries, lists and texts; `no`, `1.0` and `null` are texts too. Raises `NotYaml`."""
    return _load(text, _Texts)


def load_document(text: str) -> Any:
    """Return a document with the scalars of JSON; everything else is text. Raises `NotYaml`."""
    return _load(text, _Plain)


def lines_of(text: str) -> dict[tuple[str | int, ...], int]:
    """Return for each key and item of a document, by its path, the line (from 1) on which it is; raises `NotYaml`.

    The document as a whole has the empty path. Where a node is used twice (an alias), each path has the node's line.
    """
    found: dict[tuple[str | int, ...], int] = {}
    try:
        node = yaml.compose(text, Loader=_Plain)
        if node is not None:
            _note_lines(node, (), node.start_mark.line + 1, found)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotYaml(" ".join(str(error).split())) from None
    return found


def _note_lines(
    node: yaml.Node, path: tuple[str | int, ...], line: int, found: dict[tuple[str | int, ...], int]
) -> None:
    if len(found) > _MOST_PLACES:
        return
    found[path] = line
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                _note_lines(value, (*path, key.value), key.start_mark.line + 1, found)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _note_lines(item, (*path, number), item.start_mark.line + 1, found)


def dump_document(document: Any, **style: Any) -> str:
    """Return YAML that `load_document` reads as `document`; `style` is for `yaml.dump`.

    Other scripts stay readable. Where a text holds one of Unicode's own line breaks, which PyYAML folds to
    a space when it reads them, all are escaped.
    """
    text = str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style))
    return text if _BREAKS.isdisjoint(text) else str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, **style))


def _load(text: str, kind: type[_Texts] | type[_Plain]) -> Any:
    loader: _Texts | _Plain | None = None
    try:
        loader = kind(text)
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotYaml(" ".join(str(error).split())) from None
    except (LookupError, ArithmeticError, AttributeError, TypeError):  # PyYAML's, for a tag that the value does not fit
        raise NotYaml("a value does not fit the type that its tag names") from None
    finally:
        if loader is not None:
            loader.dispose()


def _once(node: yaml.MappingNode) -> None:
    keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
    if twice := sorted(key for key, count in keys.items() if count > 1):
        raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is written twice", node.start_mark)
