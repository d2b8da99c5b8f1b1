"""A sweep for the pages: a number, a choice and a list are varied; some jobs wait, one was refused."""

from datetime import UTC, datetime
from typing import Any

from undersong.services.coordinator.views.sweeps import SweepView


def make_sweep() -> SweepView:
    """Twelve jobs, of which nine were evaluated."""
    jobs: list[dict[str, Any]] = []
    for place in range(1, 13):
        rate, name, hidden = 10 ** -(place % 4), ("fedavg", "fedadam")[place % 2], [16] if place % 3 else [32, 8]
        done = place <= 9
        jobs.append({
            "place": place, "values": [rate, name, hidden], "state": "succeeded" if done else "waiting",
            "job_id": f"job_{place:02}" if done else None, "reason": None,
            "metrics": {"auc": 0.9 - 0.1 * rate - 0.01 * place, "loss": 0.3 + 0.2 * rate} if done else {},
        })  # fmt: skip
    jobs[-1] |= {"state": "refused", "reason": "/cohort/min: 2 sites <b>"}
    return SweepView.model_validate({
        "id": "swp_1", "federation_id": "fed_01hearts", "name": "rates", "created_by": "ada",
        "created_at": datetime(2026, 11, 2, tzinfo=UTC), "state": "running", "parallel": 2,
        "states": {"succeeded": 9, "waiting": 2, "refused": 1}, "document": {},
        "parameters": ["/recipe/params/lr", "/strategy/name", "/recipe/params/hidden"], "metrics": ["auc", "loss"],
        "better_small": ["loss"],
        "epsilon": 12.0, "delta": 1e-5, "jobs": jobs,
    })  # fmt: skip
