"""How far a job has come, kept from its events alone: following a job asks nothing else of the coordinator."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from undersong.client.types import ENDED_ROUND_PHASES, Event, Round

HEADLINE: Final = ("accuracy", "auc", "r2", "rmse", "concordance", "loss")
_NUMBERED: Final = frozenset({"train", "evaluate", "statistics"})
_EXACT: Final = 1e-6
"""An error bound up to which a metric is exact, in the three decimals that are shown."""
_COUNTS: Final = frozenset({"examples", "positives", "rare_classes", "mape_rows", "tokens"})


@dataclass
class RoundProgress:
    """One round as its events tell it; `got` counts the sites that have answered, of `cohort`."""

    id: str
    kind: str
    number: int
    attempt: int = 1
    phase: str = "planned"
    got: int = 0
    cohort: int = 0
    reason: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.phase in ENDED_ROUND_PHASES

    @property
    def title(self) -> str:
        """What it is called on a line of its own."""
        name = f"{self.kind} {self.number}" if self.kind in _NUMBERED and self.number else self.kind
        return name if self.attempt == 1 else f"{name}, attempt {self.attempt}"

    @property
    def note(self) -> str:
        """Its metrics, or why it ended, or what it waits for."""
        return headline(self.metrics) or self.reason or ("" if self.phase == "published" else self.phase)


def headline(metrics: Mapping[str, Any], names: Sequence[str] = HEADLINE) -> str:
    """Return the metrics that most people look for in one line, each with its error bound where it has one."""
    values = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    shown = [key for key in names if key in values] or [key for key in values if not key.endswith("_error")][:3]
    bounds = {key: f" ±{values[f'{key}_error']:.1g}" for key in shown if values.get(f"{key}_error", 0) > _EXACT}
    written = {key: f"{value:,.0f}" if key in _COUNTS else f"{value:.3f}" for key, value in values.items()}
    return ", ".join(f"{key} {written[key]}{bounds.get(key, '')}" for key in shown)


class JobProgress:
    """All rounds of a job, in the order in which they were planned."""

    def __init__(self) -> None:
        self.rounds: dict[str, RoundProgress] = {}
        self.state = "running"
        self.reason: str | None = None
        self._trained = 0  # as the events of published rounds tell it

    def take(self, event: Event) -> RoundProgress | None:
        """Take in one event; the round that it changed, if any."""
        if event.type == "job.unheard":
            return None
        if event.type.startswith("job."):
            self.state = str(event.data.get("state", self.state))
            self.reason = event.data.get("reason")
            return None
        if isinstance(told := event.data.get("trained"), int):
            self._trained = max(self._trained, told)
        known = self.rounds.get(str(event.data.get("round_id")))
        if event.type == "task.done" and known is not None and not known.ended:
            known.got = min(known.got + 1, known.cohort)
            return known
        if event.type.startswith("round.") and "round_id" in event.data:
            return self._round(event.data)
        return None

    def take_rounds(self, rounds: Iterable[Round]) -> list[RoundProgress]:
        """Take in the rounds as a list answers them, when there are no events; those that changed."""
        return [
            self._round({**round_.model_dump(), "round_id": round_.id, "cohort": len(round_.cohort)})
            for round_ in rounds
            if round_.kind != "prepare"  # an order to train ahead is no round that people wait for
            if round_.id not in self.rounds or not self.rounds[round_.id].ended
        ]

    @property
    def trained(self) -> int:
        """How many rounds were trained: of trees, which no round of training makes, as many as have grown."""
        published = sum(round_.kind == "train" and round_.phase == "published" for round_ in self.rounds.values())
        return max(published, self._trained)

    @property
    def answered(self) -> int:
        """How many rounds of statistics have been published."""
        return sum(round_.kind == "statistics" and round_.phase == "published" for round_ in self.rounds.values())

    @property
    def newest(self) -> RoundProgress | None:
        """The round that was planned last."""
        return next(reversed(self.rounds.values()), None)

    @property
    def measured(self) -> str:
        """The newest metrics in a few words."""
        notes = [round_.note for round_ in self.rounds.values() if round_.kind == "evaluate" and round_.metrics]
        return notes[-1] if notes else ""

    def _round(self, data: dict[str, Any]) -> RoundProgress:
        """Return a round's own events carry all of it."""
        id_ = str(data["round_id"])
        found = self.rounds.setdefault(id_, RoundProgress(id_, str(data["kind"]), int(data["number"])))
        found.attempt, found.phase = int(data.get("attempt", 1)), str(data["phase"])
        found.cohort, found.got = int(data.get("cohort") or 0), int(data.get("got") or 0)
        found.reason = data.get("reason")
        values = dict(data.get("metrics") or {})
        loss = (data.get("result") or {}).get("loss")
        found.metrics = {"loss": loss, **values} if loss is not None else values
        return found
