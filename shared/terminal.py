"""Texts of other parties on a terminal, which obeys some characters instead of showing them.

Escape sequences in names and sentences could rewrite the screen's content, or set the clipboard.
"""

import json
import re
from typing import Any, Final

_OBEYED: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that turn the direction of the text that follows."""


def shown(text: str) -> str:
    """Return a text with each character that terminals obey exchanged for U+FFFD."""
    return _OBEYED.sub("\ufffd", text)


def shown_json(document: Any) -> str:
    r"""Return an indented JSON document with each character that terminals obey as its escape (``\u009b``)."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
