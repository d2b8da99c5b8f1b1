"""What sites say of a failed round, as lines among lines of the platform."""

from services.coordinator.domain.causes import MESSAGE_CHARS, causes_of
from services.coordinator.domain.tasks import Task, TaskState
from shared.ids import JobId, RoundId, SiteId, TaskId


def rejected(site: str, message: str | None) -> Task:
    """The task of a site that could not do it."""
    ids = TaskId(f"task_{site}"), RoundId("rnd_1"), JobId("job_1"), SiteId(site)
    return Task(*ids, "train", state=TaskState.REJECTED, code="recipe-error", message=message)


def test_a_cause_is_one_line_of_visible_characters() -> None:
    forged = "no rows\x1b[2J\r\n2026-11-30 job succeeded\u2028\u202eall well\x00"
    (cause,) = causes_of([rejected("alpha", forged)])
    assert cause.message.isprintable()
    assert cause.message == "no rows [2J 2026-11-30 job succeeded all well"


def test_blanks_do_not_make_a_cause_another() -> None:
    (cause,) = causes_of(
        [
            rejected("alpha", "no  rows\n"),
            rejected("beta", "no rows"),
        ]
    )
    assert (cause.sites, cause.message) == (2, "no rows")
    assert len(causes_of([rejected("alpha", "x" * 2000)])[0].message) == MESSAGE_CHARS
