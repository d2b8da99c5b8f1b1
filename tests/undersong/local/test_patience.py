"""Waits for processes are given up by what these do, not by the clock."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from undersong.local.patience import Patience, processor_seconds


@dataclass
class World:
    now: float = 0.0
    used: float = 0.0

    def run(self, patience: Patience, seconds: float, cores: float) -> bool:
        """Whether patience ends within these seconds of the clock, at this share of a processor."""
        for _ in range(int(seconds)):
            self.now += 1
            self.used += cores
            if patience.over():
                return True
        return False


def made(world: World, **limits: float) -> Patience:
    def used(_: Iterable[int]) -> float:
        return world.used

    return Patience(lambda: [1], clock=lambda: world.now, used=used, **limits)


def test_a_slow_process_is_waited_for() -> None:
    """At a fiftieth of a core, a start of four processor seconds takes more than three minutes."""
    world = World()
    assert not world.run(made(world, idle_s=60, busy_s=100), 250, 0.02)


def test_a_process_that_waits_in_vain_is_given_up() -> None:
    world = World()
    assert world.run(made(world, idle_s=60, busy_s=100), 70, 0.0)


def test_a_process_that_works_in_vain_is_given_up() -> None:
    world = World()
    assert world.run(made(world, idle_s=60, busy_s=100), 120, 1.0)


def test_each_step_gives_new_patience() -> None:
    world = World()
    patience = made(world, idle_s=60, busy_s=100)
    for _ in range(5):
        assert not world.run(patience, 50, 0.0)
        patience.progressed()
    assert world.run(patience, 70, 0.0)


def test_processor_time_is_read_from_the_system() -> None:
    before, until = processor_seconds([os.getpid()]), time.process_time() + 0.2
    while time.process_time() < until:
        pass
    assert processor_seconds([os.getpid()]) > before
    assert processor_seconds([2**22 + 1]) == 0
