"""YAML whose scalars stay what stands in the file: texts. YAML's own guesses about them are never made."""

from typing import Any

import yaml

NOTHING = ("", "~", "null")
"""How YAML spells an empty value."""


class NotYaml(ValueError):
    """The text is no YAML document that says each thing once."""


class _Texts(yaml.BaseLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a mapping that says one thing twice: YAML would keep the last."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_texts(text: str) -> Any:
    """Return a document of dictionaries, lists and texts; `no`, `1.0` and `null` are texts too. Raises `NotYaml`."""
    loader: _Texts | None = None
    try:
        loader = _Texts(text)
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotYaml(str(error)) from None
    finally:
        if loader is not None:
            loader.dispose()
