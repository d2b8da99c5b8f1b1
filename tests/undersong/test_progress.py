"""Progress from events alone agrees with progress from the list of rounds."""

from undersong.client.types import Event, Round
from undersong.progress import JobProgress, headline


def event(type_: str, **data: object) -> Event:
    return Event(id="1", type=type_, data=data)


def planned(**changes: object) -> dict[str, object]:
    return {"round_id": "r", "kind": "train", "number": 1, "phase": "collecting", "got": 0, "cohort": 2} | changes


def test_answers_are_counted_and_the_rounds_own_event_settles_them() -> None:
    seen = JobProgress()
    seen.take(event("round.collecting", **planned()))
    for _ in range(3):
        seen.take(event("task.done", round_id="r"))
    assert [(r.got, r.ended) for r in seen.rounds.values()] == [(2, False)]
    seen.take(event("round.published", **planned(phase="published", got=1, result={"loss": 0.5})))
    seen.take(event("task.done", round_id="r"))
    assert [(r.got, r.ended, r.note) for r in seen.rounds.values()] == [(1, True, "loss 0.500")]
    assert seen.trained == 1


def test_a_task_of_an_unknown_round_changes_nothing() -> None:
    assert JobProgress().take(event("task.done", round_id="elsewhere")) is None


def test_the_list_of_rounds_gives_the_same_picture() -> None:
    seen = JobProgress()
    listed = Round(id="r", job_id="j", number=1, kind="evaluate", phase="published", cohort=["a", "b"], got=2)
    [changed] = seen.take_rounds([listed.model_copy(update={"metrics": {"auc": 0.9}})])
    assert (changed.title, changed.note, changed.cohort) == ("evaluate 1", "auc 0.900", 2)
    assert seen.take_rounds([listed]) == []
    assert seen.measured == "auc 0.900"


def test_rounds_of_sums_are_told_apart_by_their_numbers() -> None:
    seen = JobProgress()
    titles = [
        seen.take_rounds([Round(id=f"r{number}", job_id="j", number=number, kind="statistics", phase="published")])
        for number in (0, 1, 2)
    ]
    assert [changed.title for [changed] in titles] == ["statistics", "statistics 1", "statistics 2"]


def test_a_jobs_own_events_set_its_state() -> None:
    seen = JobProgress()
    seen.take(event("job.failed", state="failed", reason="quorum"))
    assert (seen.state, seen.reason) == ("failed", "quorum")


def test_a_metric_is_shown_with_its_error_bound() -> None:
    assert headline({"mape_rows": 1204.0, "mape": 0.1}, ("mape", "mape_rows")) == "mape 0.100, mape_rows 1,204"
    assert headline({"auc": 0.9084, "auc_error": 0.00084, "loss": 0.4}) == "auc 0.908 ±0.0008, loss 0.400"
    assert headline({"mae": 2.0, "mse": 5.0, "x_error": 1.0}) == "mae 2.000, mse 5.000"
    assert headline({"auc": 0.9, "auc_error": 3e-15}) == "auc 0.900"
    assert headline({}) == ""


def test_trees_are_counted_as_they_grow() -> None:
    """No round of training makes them: the rounds of sums say how many are complete."""
    seen = JobProgress()
    for number, trees in enumerate((0, 1, 1, 2)):
        told = planned(round_id=f"r{number}", kind="statistics", number=number, phase="published", trained=trees)
        seen.take(event("round.published", **told))
    assert (seen.trained, seen.answered) == (2, 4)
