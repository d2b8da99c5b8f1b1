"""What sites say of a failed round, as lines among lines of the platform."""

from undersong.services.coordinator.domain.causes import MESSAGE_CHARS, Cause, causes_of, remedy
from undersong.services.coordinator.domain.tasks import SiteTask, TaskState
from undersong.shared.ids import JobId, RoundId, SiteId, TaskId


def rejected(site: str, message: str | None) -> SiteTask:
    """The task of a site that could not do it."""
    ids = TaskId(f"task_{site}"), RoundId("rnd_1"), JobId("job_1"), SiteId(site)
    return SiteTask(*ids, "train", state=TaskState.REJECTED, code="recipe-error", message=message)


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


def test_what_helps_is_said_for_each_kind_of_cause() -> None:
    """One sentence per kind, whatever the sites' codes; a pause without a known cause says that it can be resumed."""
    codes = ("policy-engine", "policy-kind", "sample-count-changed", "policy-unreadable", "new-code")
    said = remedy("quorum:2", [Cause(code, "", 1) for code in codes])
    assert said.count("may allow it in policy.yaml") == 1
    assert "submit it again, from its last version (model.version_id)" in said
    assert "corrects policy.yaml" in said
    assert "undersong site list" in remedy("too-few-sites", [])
    assert remedy("quorum", []) == "Resume the job once the cause is removed."
