"""What a child says is read as what a stranger says: by type, within bounds, with paths that this side chose."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from undersong.services.agent.domain.rules import TaskFailure
from undersong.services.agent.runner import folders
from undersong.services.agent.runner.protocol import LOCAL_FILE, RESULT_FILE, SUMS_FILE, Frame, FrameError, RunOutcome
from undersong.shared.wire.privacy import PrivacyEvent, privacy_event

CODE: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")
DETAIL_CHARS, PLACES, PLACE_CHARS, TEXT_CHARS = 500, 8, 200, 8192
MOST_EXAMPLES: Final = 2**53
SUMS_BYTES: Final = 64 * 2**20
MOST_EVENTS: Final = 64


def progress_of(frame: Frame) -> float:
    """Return how far it is, 0..1; FrameError."""
    return min(1.0, max(0.0, _number(frame, "value")))


def failure(frame: Frame) -> TaskFailure:
    """Return what a recipe's failure says; a code that is none becomes `recipe-error`."""
    code, where = frame.get("code"), frame.get("where")
    places = where if isinstance(where, list) else []
    return TaskFailure(
        code if isinstance(code, str) and CODE.fullmatch(code) else "recipe-error",
        str(frame.get("detail") or "")[:DETAIL_CHARS],
        where=[str(place)[:PLACE_CHARS] for place in places[:PLACES]],
        text=str(frame.get("text") or "")[-TEXT_CHARS:],
    )


def outcome(frame: Frame, folder: Path, taken: Path | None, limit: int) -> RunOutcome:
    """Return the result of an order. With `taken` its files are copied there, out of the recipe's reach.

    Files of at most `limit` bytes (0: no limit). TaskFailure for a result that is not one.
    """
    try:
        examples, loss = int(_number(frame, "examples")), _number(frame, "loss")
        events = _events(frame)
    except FrameError as error:
        raise TaskFailure("bad-result", str(error)) from error
    layout = frame.get("metrics_layout")
    if not 0 <= examples <= MOST_EXAMPLES or not (layout is None or isinstance(layout, str)):
        raise TaskFailure("bad-result", "the recipe's facts about its result are out of bounds")
    try:
        if taken is not None:
            folders.fresh(taken)
        return RunOutcome(
            tensors=_file(folder, RESULT_FILE, taken, limit),
            sums=_file(folder, SUMS_FILE, taken, min(limit, SUMS_BYTES) if limit else SUMS_BYTES),
            local=_file(folder, LOCAL_FILE, taken, limit),
            examples=examples,
            loss=loss,
            metrics_layout=layout,
            events=events,
        )
    except folders.ResultFileRefused as error:
        raise TaskFailure("bad-result", str(error)) from error


def _file(folder: Path, name: str, taken: Path | None, limit: int) -> Path | None:
    path = folder / name
    if taken is not None:
        return folders.take(path, taken / name, limit)
    return path if path.is_file() and not path.is_symlink() else None


def _events(frame: Frame) -> tuple[PrivacyEvent, ...]:
    listed = frame.get("events") or []
    if not isinstance(listed, list) or len(listed) > MOST_EVENTS:
        raise FrameError("events are no list, or too many")
    try:
        return tuple(privacy_event(event) for event in listed)
    except ValidationError as error:
        raise FrameError("the recipe's noise is described by no event") from error


def _number(frame: Frame, name: str) -> float:
    value: Any = frame.get(name) or 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FrameError(f"{name} is no number")
    return float(value)
