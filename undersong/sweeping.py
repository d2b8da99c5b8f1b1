"""Changes of a job document for a sweep: every combination of some values, or random ones of ranges.

A setting is ``recipe.params.learning_rate=0.1,0.3`` (values with commas between them, as YAML) or, for random changes
only, ``recipe.params.learning_rate=0.001..0.1:log``: a range, even or even in the logarithm, of whole numbers where
both ends are.
"""

import itertools
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from undersong.errors import UndersongError
from undersong.shared.yaml_texts import load_document

MOST: Final = 200
"""Jobs of one sweep; the coordinator takes no more."""
_NUMBER: Final = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE: Final = re.compile(rf"(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?P<log>:log)?")
_EXAMPLE: Final = "--set recipe.params.learning_rate=0.1,0.3"


@dataclass(frozen=True, slots=True)
class Varied:
    """A setting that is varied: its path in the document, and its values or how one of a range is drawn."""

    path: tuple[str, ...]
    values: tuple[Any, ...] = ()
    draw: Callable[[random.Random], Any] | None = None

    def change(self, value: Any) -> dict[str, Any]:
        """Return the JSON merge patch that gives the setting a value."""
        for name in reversed(self.path):
            value = {name: value}
        return dict(value)


def varied(settings: Sequence[str]) -> list[Varied]:
    """Return the settings that are varied; raises UndersongError for what is none, or comes twice."""
    found = [_varied(setting) for setting in settings]
    for one, other in itertools.combinations(found, 2):
        least = min(len(one.path), len(other.path))
        if one.path[:least] == other.path[:least]:
            raise UndersongError(f"{'.'.join(other.path)} is varied twice", remedy="give all its values in one --set")
    return found


def grid(found: Sequence[Varied]) -> list[dict[str, Any]]:
    """Return every combination of values as a JSON merge patch, the last setting changing fastest."""
    for each in found:
        if each.draw is not None:
            said = f"{'.'.join(each.path)} is a range, of which there is no list of values"
            raise UndersongError(said, remedy="--random 10 draws ten values; or list some, with commas between them")
    _check_count(math.prod(len(each.values) for each in found))
    return [_joined(found, values) for values in itertools.product(*(each.values for each in found))]


def drawn(found: Sequence[Varied], count: int, seed: int) -> list[dict[str, Any]]:
    """Return so many random combinations, all different where there are enough; the same for the same seed."""
    _check_count(count)
    source = random.Random(seed)  # noqa: S311  (settings of experiments, no secret)
    made: dict[str, dict[str, Any]] = {}
    for _ in range(100 * count):
        values = [each.draw(source) if each.draw else source.choice(each.values) for each in found]
        change = _joined(found, values)
        made.setdefault(json.dumps(change, sort_keys=True), change)
        if len(made) == count:
            break
    return list(made.values())


def _check_count(count: int) -> None:
    if count > MOST:
        said = f"a sweep has at most {MOST} jobs, and these settings make {count}"
        raise UndersongError(said, remedy="--random 20 draws twenty of them; or give fewer values")


def _joined(found: Sequence[Varied], values: Sequence[Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for each, value in zip(found, values, strict=True):
        place = made
        for name in each.path[:-1]:
            place = place.setdefault(name, {})
        place[each.path[-1]] = value
    return made


def _varied(setting: str) -> Varied:
    path, equals, text = setting.partition("=")
    names = tuple(path.strip().lstrip("/").replace("/", ".").split("."))
    if not equals or not all(names):
        raise UndersongError(f"{setting!r} is no setting", remedy=_EXAMPLE)
    if (found := _RANGE.fullmatch(text.strip())) is not None:
        return Varied(names, draw=_range(setting, found))
    try:
        values = load_document(f"[{text}]")
        json.dumps(values, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise UndersongError(f"the values of {setting!r} cannot be read: {said}", remedy=_EXAMPLE) from error
    if not isinstance(values, list) or not values:
        raise UndersongError(f"{setting!r} has no values", remedy=_EXAMPLE)
    if len({json.dumps(each, sort_keys=True) for each in values}) < len(values):
        raise UndersongError(f"{setting!r} has a value twice", remedy="give each value once")
    return Varied(names, tuple(values))


def _range(setting: str, found: re.Match[str]) -> Callable[[random.Random], Any]:
    low, high = float(found["low"]), float(found["high"])
    whole = all(re.fullmatch(r"[-+]?\d+", found[end]) for end in ("low", "high"))
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UndersongError(f"the range of {setting!r} is empty", remedy="the smaller number first: 0.001..0.1")
    if not found["log"]:
        return lambda source: source.randint(int(low), int(high)) if whole else _short(source.uniform(low, high))
    if low <= 0:
        raise UndersongError(f"the range of {setting!r} has no logarithm", remedy="both ends above zero, or no :log")

    def draw(source: random.Random) -> Any:
        value = math.exp(source.uniform(math.log(low), math.log(high)))
        return min(max(round(value), int(low)), int(high)) if whole else min(max(_short(value), low), high)

    return draw


def _short(value: float) -> float:
    """Return a number of four digits: more would say nothing."""
    return float(f"{value:.4g}")
