"""Time is aware and in UTC."""

from datetime import timedelta

from undersong.shared.clock import monotonic, utc_now


def test_now_is_aware_utc() -> None:
    assert utc_now().utcoffset() == timedelta(0)


def test_monotonic_does_not_go_back() -> None:
    assert monotonic() <= monotonic()
