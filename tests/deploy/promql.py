"""Enough of PromQL to try alerts: selectors, rate, increase, quantiles, max, min, sum, arithmetic, comparison, and, or.

A series is a list of values, one every `STEP_S` seconds. `rate` and `increase` do not extrapolate to the window's ends.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

STEP_S: Final = 15.0
Labels = tuple[tuple[str, str], ...]
Vector = dict[Labels, float]
Value = Vector | float
Series = Mapping[tuple[str, Labels], Sequence[float]]
_TOKEN: Final = re.compile(
    r'\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<string>"[^"]*")'
    r"|(?P<range>\[\d+[smhd]\])|(?P<op>>=|<=|==|!=|=~|!~|[-+*/(){},<>=]))"
)
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}
_MATCH: Final[dict[str, Callable[[str, str], bool]]] = {
    "=": lambda have, want: have == want,
    "!=": lambda have, want: have != want,
    "=~": lambda have, want: re.fullmatch(want, have) is not None,
    "!~": lambda have, want: re.fullmatch(want, have) is None,
}


def labels(**named: str) -> Labels:
    return tuple(sorted(named.items()))


@dataclass
class Evaluation:
    """One expression at one moment, in seconds from the start of the series."""

    text: str
    series: Series
    at_s: float

    def run(self) -> Value:
        text = self.text.strip()
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            assert match, f"not understood: {text[position:]}"
            kind = match.lastgroup or ""
            self.tokens.append((kind, match[kind]))
            position = match.end()
            position += len(text[position:]) - len(text[position:].lstrip())
        value = self._either()
        assert not self.tokens, self.tokens
        return value

    def _peek(self) -> str:
        return self.tokens[0][1] if self.tokens else ""

    def _take(self, wanted: str | None = None) -> str:
        _, word = self.tokens.pop(0)
        assert wanted in (None, word), f"{wanted} expected, not {word}"
        return word

    def _either(self) -> Value:
        value = self._both()
        while self._peek() == "or":
            self._take()
            other = self._both()
            assert isinstance(value, dict)
            assert isinstance(other, dict)
            value = {**other, **value}
        return value

    def _both(self) -> Value:
        value = self._comparison()
        while self._peek() == "and":
            self._take()
            other = self._comparison()
            assert isinstance(value, dict)
            assert isinstance(other, dict)
            value = {key: found for key, found in value.items() if key in other}
        return value

    def _comparison(self) -> Value:
        value = self._sum()
        while self._peek() in _COMPARE:
            compare, other = _COMPARE[self._take()], self._sum()
            assert isinstance(value, dict)
            assert isinstance(other, float)
            value = {key: found for key, found in value.items() if compare(found, other)}
        return value

    def _sum(self) -> Value:
        value = self._product()
        while self._peek() in "+-" and self._peek():
            value = _combined(self._take(), value, self._product())
        return value

    def _product(self) -> Value:
        value = self._single()
        while self._peek() in ("*", "/"):
            value = _combined(self._take(), value, self._single())
        return value

    def _single(self) -> Value:
        kind, word = self.tokens[0]
        if kind == "number":
            return float(self._take())
        if word == "(":
            self._take()
            value = self._either()
            self._take(")")
            return value
        self._take()
        if word in ("max", "min", "sum"):
            return self._aggregated(word)
        if word in ("rate", "increase"):
            self._take("(")
            name, matchers = self._selector(self._take())
            window_s = self._range()
            self._take(")")
            per = window_s if word == "rate" else 1.0
            return {key: rise / per for key, rise in self._rises(name, matchers, window_s).items()}
        if word == "histogram_quantile":
            self._take("(")
            quantile = float(self._take())
            self._take(",")
            buckets = self._either()
            self._take(")")
            assert isinstance(buckets, dict)
            return _quantile(quantile, buckets)
        name, matchers = self._selector(word)
        index = int(self.at_s / STEP_S)
        return {key: values[index] for key, values in self._found(name, matchers) if index < len(values)}

    def _aggregated(self, how: str) -> Vector:
        kept: list[str] = []
        if self._peek() == "by":
            self._take()
            self._take("(")
            while self._peek() != ")":
                kept.append(self._take())
                if self._peek() == ",":
                    self._take()
            self._take(")")
        self._take("(")
        value = self._either()
        self._take(")")
        assert isinstance(value, dict)
        groups: dict[Labels, list[float]] = {}
        for key, found in value.items():
            groups.setdefault(tuple(pair for pair in key if pair[0] in kept), []).append(found)
        fold: Callable[[list[float]], float] = {"max": max, "min": min, "sum": math.fsum}[how]
        return {key: fold(found) for key, found in groups.items()}

    def _selector(self, name: str) -> tuple[str, list[tuple[str, str, str]]]:
        matchers = []
        if self._peek() == "{":
            self._take()
            while self._peek() != "}":
                label, operator, wanted = self._take(), self._take(), self._take().strip('"')
                matchers.append((label, operator, wanted))
                if self._peek() == ",":
                    self._take()
            self._take("}")
        return name, matchers

    def _range(self) -> float:
        word = self._take()
        return float(word[1:-2]) * _SECONDS[word[-2]]

    def _found(self, name: str, matchers: list[tuple[str, str, str]]) -> list[tuple[Labels, Sequence[float]]]:
        found = []
        for (series, key), values in self.series.items():
            have = dict(key)
            if series == name and all(_MATCH[op](have.get(label, ""), want) for label, op, want in matchers):
                found.append((key, values))
        return found

    def _rises(self, name: str, matchers: list[tuple[str, str, str]], window_s: float) -> Vector:
        last, first = int(self.at_s / STEP_S), max(0, int((self.at_s - window_s) / STEP_S))
        rises: Vector = {}
        for key, values in self._found(name, matchers):
            seen = values[first : last + 1]
            rises[key] = sum(b - a if b >= a else b for a, b in pairwise(seen))
        return rises


def _combined(operator: str, one: Value, other: Value) -> Value:
    def apply(a: float, b: float) -> float:
        if operator == "/":
            return a / b if b else math.nan if not a else math.copysign(math.inf, a)
        return {"*": a * b, "+": a + b, "-": a - b}[operator]

    if isinstance(one, float) and isinstance(other, float):
        return apply(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: apply(one[key], other[key]) for key in one.keys() & other.keys()}
    if isinstance(one, dict):
        assert isinstance(other, float)
        return {key: apply(value, other) for key, value in one.items()}
    assert isinstance(other, dict)
    return {key: apply(one, value) for key, value in other.items()}


def _quantile(quantile: float, buckets: Vector) -> Vector:
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for key, count in buckets.items():
        bound = float(dict(key)["le"].replace("+Inf", "inf"))
        groups.setdefault(tuple(pair for pair in key if pair[0] != "le"), []).append((bound, count))
    found: Vector = {}
    for key, pairs in groups.items():
        pairs.sort()
        rank, below, under = quantile * pairs[-1][1], 0.0, 0.0
        for bound, count in pairs:
            if count >= rank and count > 0:
                share = (rank - under) / (count - under) if count > under else 1.0
                found[key] = below if math.isinf(bound) else below + (bound - below) * share
                break
            below, under = bound, count
    return found
