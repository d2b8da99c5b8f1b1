"""The dashboard's door on each database: who tried too often waits, and what was signed out stays out."""

import asyncio
from datetime import timedelta

import pytest

from tests.services.coordinator.world import World
from undersong.services.coordinator.signins import LOCKED, MOST_FAILURES, TooManySignIns, network_of
from undersong.shared.web.access import new_token

HERE, THERE = "192.0.2.7", "192.0.2.8"


@pytest.mark.both_databases
async def test_ten_failures_lock_one_address_for_a_while(world: World) -> None:
    """Counted in the database: tries at once, and at several processes, are all counted."""
    door = world.use_cases.signins
    await asyncio.gather(*(door.failed(HERE) for _ in range(MOST_FAILURES)))
    with pytest.raises(TooManySignIns) as refusal:
        await door.admit(HERE)
    assert refusal.value.retry_after_s is not None
    assert 0 < refusal.value.retry_after_s <= LOCKED.total_seconds()
    await door.admit(THERE)
    world.clock.advance(LOCKED.total_seconds() + 1)
    await door.admit(HERE)
    await door.failed(HERE)
    await door.admit(HERE)


async def test_a_success_forgets_the_failures(world: World) -> None:
    door = world.use_cases.signins
    for _ in range(2):
        for _ in range(MOST_FAILURES - 1):
            await door.failed(HERE)
        await door.succeeded(HERE)
    await door.admit(HERE)


async def test_what_was_ended_stays_so_until_it_is_over_anyway(world: World) -> None:
    door, until = world.use_cases.signins, world.clock() + timedelta(hours=12)
    await door.end("session", until)
    await door.end("session", until)
    await door.prune()
    assert await door.ended("session")
    assert not await door.ended("another")
    world.clock.advance(13 * 3600)
    await door.prune()
    assert not await door.ended("session")


def test_an_ipv6_network_is_one_address() -> None:
    """Else the owner of one network would have eighteen quintillion tries."""
    assert network_of("2001:db8::1") == network_of("2001:db8:0:0:ffff::9") != network_of("2001:db8:1::1")
    assert network_of(HERE) != network_of(THERE)
    assert len(network_of("x" * 1000)) == 64


def test_tokens_cannot_be_guessed() -> None:
    """At least 128 random bits: 22 characters of base64 or more, never the same."""
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert min(len(token.removeprefix("ust_")) for token in tokens) * 6 >= 128
