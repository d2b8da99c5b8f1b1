"""Pauses between attempts, and the circuit that holds them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undersong.services.agent.peers.backoff import CAP_S, CircuitBreaker, full_jitter, parse_retry_after


@given(st.integers(1, 100))
def test_pauses_grow_to_a_cap(failures: int) -> None:
    longest = full_jitter(failures, uniform=lambda _, high: high)
    assert 0 < longest <= CAP_S
    assert longest <= full_jitter(failures + 1, uniform=lambda _, high: high)


def test_the_circuit_opens_after_failures_and_closes_with_success() -> None:
    now = [0.0]
    circuit = CircuitBreaker(lambda: now[0], uniform=lambda _, high: high)
    for _ in range(3):
        pause = circuit.failed()
    assert circuit.remaining_s() == pause
    now[0] += pause
    assert circuit.remaining_s() == 0
    assert circuit.failed(retry_after_s=7.0) >= 7.0
    circuit.succeeded()
    assert circuit.remaining_s() == 0


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3.0), (None, None), ("Wed, 21 Oct", None), ("-1", None), ("99999", 300.0)]
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds
