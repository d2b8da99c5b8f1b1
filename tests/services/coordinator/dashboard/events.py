"""A job's events as plain values, for its log."""

from datetime import UTC, datetime, timedelta

from undersong.services.coordinator.repository.jobs import JobEvent
from undersong.shared.ids import JobId


def make_events() -> tuple[JobEvent, ...]:
    """Events of one round, newest first: a site that fails and one that others accuse among them."""
    told: tuple[tuple[str, str, dict[str, object]], ...] = (
        ("job.created", "ada", {}),
        ("round.planned", "coordinator", {"kind": "train", "number": 1, "round_id": "rnd_train1"}),
        ("task.leased", "site_01k0", {"site_id": "site_01k0", "attempt": 1, "round_id": "rnd_train1"}),
        ("task.open", "site_01k1", {"site_id": "site_01k1", "attempt": 2, "code": "recipe-failed",
                                    "message": "It <failed> at chol.", "round_id": "rnd_train1"}),
        ("site.disputed", "coordinator", {"site_id": "site_01k2", "code": "shares-disputed", "round_id": "rnd_train1"}),
        ("task.done", "site_01k0", {"site_id": "site_01k0", "attempt": 1, "round_id": "rnd_train1"}),
        ("round.failed", "coordinator", {"kind": "train", "number": 1, "got": 1, "cohort": 4, "reason": "quorum",
                                         "round_id": "rnd_train1"}),
    )  # fmt: skip
    began = datetime(2026, 11, 30, tzinfo=UTC)
    made = [
        JobEvent(JobId("job_01running"), at, type_, actor, data, began + timedelta(seconds=at))
        for at, (type_, actor, data) in enumerate(told, start=1)
    ]
    return tuple(reversed(made))


EVENTS = make_events()
