"""A refusal knows its own name, title and status."""

from undersong.shared.errors import Conflict, FieldError, Invalid, Kind, NotFound, reason_of


class RoundClosedEarly(Conflict):
    """The round takes no more updates.

    More text that is no part of the title.
    """


def test_slug_title_and_status_come_from_the_class() -> None:
    refusal = RoundClosedEarly("round rnd_1 closed at noon", retry_after_s=2)
    assert (refusal.slug(), refusal.title(), refusal.status) == (
        "round-closed-early",
        "The round takes no more updates.",
        409,
    )
    assert str(refusal) == "round rnd_1 closed at noon"
    assert refusal.retry_after_s == 2


def test_each_class_has_its_own_slug() -> None:
    assert {NotFound.slug(), Conflict.slug(), RoundClosedEarly.slug()} == {
        "not-found",
        "conflict",
        "round-closed-early",
    }


def test_field_errors_are_kept() -> None:
    refusal = Invalid("two things", errors=[FieldError("/a", "missing"), FieldError("/b/0", "too large")])
    assert refusal.kind is Kind.INVALID
    assert [error.path for error in refusal.errors] == ["/a", "/b/0"]


def test_the_reason_of_another_service_is_its_detail_and_nothing_else() -> None:
    """The title says the same in other words, and a proxy's page is no problem document."""
    said = {
        b'{"title": "T", "detail": "D"}': "D",
        b'{"title": "T"}': "T",
        b"<html>": "status 409",
        b"[1]": "status 409",
    }
    assert {body: reason_of(body, 409) for body in said} == said
