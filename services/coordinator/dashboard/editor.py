"""A job document as text: faults beside the lines that they are about. Pure, and slow for long texts."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from undersong.shared.documents import pointer
from undersong.shared.errors import BadRequest, FieldError, Invalid
from undersong.shared.web.jsons import check_json
from undersong.shared.yaml_texts import NotYaml, lines_of, load_document

MOST_PLACES: Final = 3000
"""Keys and items of one document: aliases can make a short text a huge document."""
DEEPEST: Final = 64
EXAMPLE: Final = """name: my first job
model: {name: my-model}
recipe: {name: tabular, params: {epochs: 1}}
data: {dataset: NAME, label: COLUMN}
rounds: 10
"""


@dataclass(frozen=True, slots=True)
class EditorLine:
    """One line of the text with what is wrong about it."""

    number: int
    text: str
    faults: tuple[str, ...]


class NoJobDocument(Invalid):
    """The text is no job document."""


def read(text: str) -> dict[str, Any]:
    """Return the document; raises NoJobDocument for what is no YAML mapping of JSON values."""
    _check_size(text)
    try:
        places = len(lines_of(text))
        document = load_document(text) if places <= MOST_PLACES else {}
        body = json.dumps(document, ensure_ascii=False)
        check_json(body.encode())
    except NotYaml as error:
        raise NoJobDocument(f"The text is not YAML: {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise NoJobDocument(f"The text holds what no request can: {' '.join(str(error).split())}") from error
    except (BadRequest, Invalid) as error:
        raise NoJobDocument(f"The text holds what no request can: {error.detail}") from error
    if places > MOST_PLACES:
        raise NoJobDocument(f"The document has more than {MOST_PLACES} places.")
    if not isinstance(document, dict):
        raise NoJobDocument("The text holds no mapping of settings, such as `rounds: 10`.")
    return dict(json.loads(body))  # keys are texts


def _check_size(text: str) -> None:
    """Refuse, by its characters alone, a text that takes seconds to parse."""
    depth = deepest = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    if deepest > DEEPEST or text.count("\n") + text.count(",") > MOST_PLACES:
        raise NoJobDocument(f"The document has more than {MOST_PLACES} places, or is nested deeper than {DEEPEST}.")


def annotated(text: str, faults: Sequence[FieldError]) -> list[EditorLine]:
    """Return the text's lines, each with the faults of what stands there; a missing field is told where it belongs."""
    places = {pointer(path): line for path, line in lines_of(text).items()}
    told: defaultdict[int, list[str]] = defaultdict(list)
    for fault in faults:
        told[_line(fault.path, places)].append(f"{fault.path or '/'}: {fault.message}")
    return [EditorLine(at, line, tuple(told[at])) for at, line in enumerate(text.splitlines() or [""], start=1)]


def _line(path: str, places: dict[str, int]) -> int:
    """Return the line of a place, or of the nearest one around it that the text has."""
    while path and path not in places:
        path = path.rpartition("/")[0]
    return places.get(path, 1)
