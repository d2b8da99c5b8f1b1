"""How values read on a page: times, sizes, states. Pure; the clock is an argument."""

from collections.abc import Mapping
from datetime import UTC, datetime

from undersong.shared.secagg.engines import ENGINES

MARKS = {  # state -> (tone, sign): the sign and the word carry the meaning, the tone repeats it
    "running": ("go", "▶"),
    "planned": ("calm", "○"),
    "keyed": ("calm", "◔"),
    "collecting": ("go", "◑"),
    "frozen": ("go", "◕"),
    "aggregating": ("go", "◕"),
    "checked": ("go", "◕"),
    "published": ("good", "✓"),
    "succeeded": ("good", "✓"),
    "done": ("good", "✓"),
    "online": ("good", "●"),
    "paused": ("warn", "‖"),
    "active": ("good", "●"),
    "left_out": ("calm", "⊘"),
    "submitted": ("good", "✓"),
    "skipped": ("calm", "○"),
    "refused": ("bad", "✕"),
    "away": ("warn", "◌"),
    "expired": ("warn", "⌛"),
    "failed": ("bad", "✕"),
    "rejected": ("bad", "✕"),
    "dead": ("bad", "✕"),
    "suspended": ("bad", "⊘"),
    "cancelled": ("calm", "⊘"),
    "open": ("calm", "○"),
    "leased": ("go", "▶"),
    "trained": ("go", "◕"),
    "passed": ("good", "✓"),
    "caution": ("warn", "!"),
    "valid": ("good", "✓"),
    "due": ("warn", "!"),
    "ends soon": ("warn", "!"),
    "waiting": ("warn", "◌"),
    "confirmed": ("good", "✓"),
    "withdrawn": ("calm", "⊘"),
    "in force": ("good", "✓"),
    "ended": ("bad", "✕"),
    "revoked": ("bad", "⊘"),
}
_STEPS = ((60.0, "s", 1.0), (3600.0, "min", 60.0), (86400.0, "h", 3600.0), (float("inf"), "days", 86400.0))


def mark(state: str) -> tuple[str, str]:
    """Return the tone and the sign that stand for a state; an unknown state is calm."""
    return MARKS.get(state, ("calm", "○"))


def engine(name: str) -> tuple[str, str]:
    """Return how strong an engine is, in one word, and what it protects against, in one sentence."""
    facts = ENGINES.get(name)
    if facts is None:
        return "unknown", "This dashboard does not know this engine."
    return facts.strength, facts.wording.protection


def seconds(length_s: float) -> str:
    """Return a duration in the unit that a person would use: `0.42 s`, `3.1 min`, `2.0 days`."""
    if length_s < 1:
        return f"{length_s:.2f} s"
    limit, unit, size = next(step for step in _STEPS if length_s < step[0])
    shown = length_s / size
    return f"{shown:.0f} {unit}" if limit <= 60 and shown >= 10 else f"{shown:.1f} {unit}"


def ago(then: datetime | None, now: datetime) -> str:
    """`now`, `12 s ago`, `3.0 min ago`, `in 20 s`, or `never`."""
    if then is None:
        return "never"
    length_s = (now - then).total_seconds()
    if abs(length_s) < 2:
        return "now"
    text = seconds(abs(round(length_s)))
    return f"{text} ago" if length_s > 0 else f"in {text}"


def utc(then: datetime | None) -> str:
    """Return the full moment, as a tooltip: `2026-11-22 22:40:03 UTC`."""
    return "" if then is None else then.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(then: datetime | None) -> str:
    """Return the moment for `<time datetime>`."""
    return "" if then is None else then.astimezone(UTC).isoformat()


def size(count: int | None) -> str:
    """Bytes in binary units: `8.0 GiB`."""
    if count is None:
        return "–"
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def number(value: float) -> str:
    """Return a metric or a count, short: `0.843`, `1,204`."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.3f}"


def measured(metrics: Mapping[str, float]) -> str:
    """Return every metric with its value, and with its error bound where it has one: `auc 0.843 ±0.001 · loss
    0.400`.
    """
    parts = [
        f"{name} {number(value)}" + (f" ±{metrics[bound]:.1g}" if (bound := f"{name}_error") in metrics else "")
        for name, value in metrics.items()
        if not name.endswith("_error")
    ]
    return " · ".join(parts)


def short(identifier: str | None, keep: int = 12) -> str:
    """Return the beginning of a digest or id, with a mark that it goes on."""
    if not identifier:
        return "–"
    return identifier if len(identifier) <= keep + 1 else identifier[:keep] + "…"
