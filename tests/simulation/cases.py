"""The cases of the fault matrix: a step, who is hurt there, and how."""

import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from tests.simulation.arena import LEASE_S, SERVICES, Arena, Wire
from tests.simulation.points import POINTS, SHARED, TWO_SERVERS
from tests.simulation.proxy import FAIR, Weather

LONGER_THAN_A_LEASE_S: Final = LEASE_S + 1.5
WORKER_PAUSE_S: Final = 4.0  # a worker's lease on a round is 2 s
SHORT_S: Final = 3.0
LONGER_THAN_A_ROUND_S: Final = 75.0  # the aggregator has 60 s to finish a round whose updates are in

SLOW: Final = Weather(delay_s=0.1, slice_bytes=1000, bytes_per_s=256_000)
CUTS: Final = {
    "slow": SLOW,
    "replies lost": Weather(drop_replies=True),
    "reset": Weather(reset=True),
    "silent": Weather(blackhole=True),
    "partition": Weather(partition=True),
    "closed early": Weather(close_after=3000),
}
WIRES: Final[dict[str, tuple[Wire, ...]]] = {
    "site - services": tuple(("north", service) for service in SERVICES),
    "all sites - aggregator": (("north", "aggregator"), ("agents", "aggregator")),
    "all sites - coordinator": (("north", "coordinator"), ("agents", "coordinator")),
    "coordinator - aggregator": (("coordinator", "aggregator"),),
    "coordinator - keys": (("coordinator", "keys"),),
    "aggregator - keys": (("aggregator", "keys"),),
    "aggregator - registry": (("aggregator", "registry"),),
    "services - Redis": tuple((service, "redis") for service in SERVICES),
}
HELPER_WIRES: Final[dict[str, tuple[Wire, ...]]] = {
    "aggregator - helper": (("aggregator", "helper"),),
    "helper - keys": (("helper", "keys"),),
}
HELPER_DATABASE: Final[tuple[Wire, ...]] = (("helper", "database"),)
DATABASE: Final[tuple[Wire, ...]] = tuple((service, "database") for service in SERVICES)


@dataclass(frozen=True)
class Case:
    """One trial: `where` and `fault` are its row and column in the table.

    `action` arms `point` of `process`. Once it is reached, `meanwhile` happens, and a held process goes on. Without a
    point, `meanwhile` happens as soon as the job is there. `postgres`: needs the arena that can restart its database.
    `may_fail`: the fault lasts for so long that the job may give up, with a reason. `forgets`: it sets the helper's
    database back.
    """

    where: str
    fault: str
    process: str = ""
    point: str = ""
    action: str = ""
    meanwhile: Callable[[Arena], None] = lambda arena: None
    postgres: bool = False
    may_fail: bool = False
    engine: str = "pairwise"
    forgets: bool = False

    @property
    def name(self) -> str:
        """For people, and for `--only`."""
        return f"{self.where} / {self.fault}" + ("" if self.engine == "pairwise" else f" / {self.engine}")


def all_cases(seed: int = 0) -> list[Case]:
    """The whole matrix; `seed` decides the moments of the random kills."""
    steps = [*killed(), *paused(), *wiped(), *stepped_clocks(), *full_disks()]
    pairwise = [*steps, *weathers(), *processes(random.Random(seed)), *databases(), *stopped(), *full_stores()]
    return [*pairwise, *(replace(case, engine="twoserver") for case in two_servers(random.Random(seed)))]


def killed() -> Iterator[Case]:
    """SIGKILL at every step of every process."""
    for point, facts in POINTS.items():
        for process in facts.processes:
            for time in facts.times:
                yield Case(_where(point, process), _nth("killed", time), process, point, f"kill@{time}")


def paused() -> Iterator[Case]:
    """Held at the step for longer than a lease, like SIGSTOP, and then it goes on as if nothing had been."""
    for point, facts in POINTS.items():
        if not point.startswith(("relay.", "consumer.", "database.", "blob.")):
            process = facts.processes[0]
            seconds = WORKER_PAUSE_S if process == "aggregator.worker" else LONGER_THAN_A_LEASE_S
            yield Case(_where(point, process), "paused", process, point, "hold", _after(seconds))


def wiped() -> Iterator[Case]:
    """Redis is emptied while a process is held exactly here."""
    for point, facts in POINTS.items():
        if point.startswith(("relay.", "consumer.", "coordinator.", "aggregator.")):
            for process in facts.processes:
                yield Case(_where(point, process), "Redis wiped", process, point, "hold", _wipe)


def stepped_clocks() -> Iterator[Case]:
    """The clock of one machine jumps in the middle of a round, forward and back; SQLite has all parties on one."""
    for point in ("coordinator.tasks.out", "aggregator.update.committed", "aggregator.round.checked"):
        process = POINTS[point].processes[0]
        for ahead_s in (120.0, -120.0):
            fault = f"all clocks {ahead_s:+.0f} s"
            yield Case(_where(point, process), fault, process, point, "hold", _clocks(ahead_s))
    points = {
        "coordinator.api": "coordinator.task.leased",
        "coordinator.worker": "coordinator.tasks.out",
        "aggregator.api": "aggregator.message.committed",
        "aggregator.worker": "aggregator.step.closed",
        "keys.api": "keys.given.noted",
        "registry.api": "registry.content.stored",
        "agent.north": "agent.training",
    }
    for process, point in points.items():
        for ahead_s in (120.0, -120.0):
            fault, meanwhile = f"clock {ahead_s:+.0f} s", _clock(process, ahead_s)
            yield Case(_where(point, process), fault, process, point, "hold", meanwhile, postgres=True)


def full_disks() -> Iterator[Case]:
    """The blob store says that the disk is full, once."""
    for process in POINTS["blob.written"].processes:
        yield Case(_where("blob.written", process), "disk full", process, "blob.written", "disk-full")


def weathers() -> Iterator[Case]:
    """Each wire, in each weather, for a few seconds from the beginning of a job."""
    for where, wires in WIRES.items():
        for fault, weather in CUTS.items():
            yield Case(where, fault, meanwhile=_weather(weather, wires))


def processes(chance: random.Random) -> Iterator[Case]:
    """Any process, at any moment: killed, stopped, asked to end."""
    names = [f"{service}.{role}" for service in SERVICES for role in ("api", "worker")]
    for name in [*names, "agent.north", "valkey"]:
        yield Case(name, "killed at random", meanwhile=_hurt(name, Arena.kill, chance.uniform(0.0, 2.5)))
        yield Case(name, "ended by SIGTERM", meanwhile=_hurt(name, _terminate, chance.uniform(0.0, 2.5)))


def databases() -> Iterator[Case]:
    """PostgreSQL: restarted while a process is held at a step, and cut off."""
    for point in (
        "coordinator.round.keyed",
        "coordinator.task.leased",
        "coordinator.result.heard",
        "aggregator.body.stored",
        "aggregator.update.committed",
        "aggregator.step.frozen",
        "aggregator.sum.opened",
        "aggregator.round.checked",
        "keys.given.committed",
        "registry.content.stored",
        "database.committing",
    ):
        process = POINTS[point].processes[0]
        held = Case(_where(point, process), "database restarted", process, point, "hold", _restart, postgres=True)
        yield held
    for point in ("aggregator.update.committed", "aggregator.round.checked", "keys.given.committed"):
        process = POINTS[point].processes[0]
        yield Case(_where(point, process), "killed, on PostgreSQL", process, point, "kill", postgres=True)
    for fault, weather in CUTS.items():
        if fault != "closed early":
            yield Case("services - database", fault, meanwhile=_weather(weather, DATABASE), postgres=True)


def stopped() -> Iterator[Case]:
    """SIGSTOP for longer than a lease, wherever the process is just then."""
    for name in [*(f"{service}.{role}" for service in SERVICES for role in ("api", "worker")), "agent.north", "valkey"]:
        yield Case(name, "SIGSTOP", meanwhile=_stop(name))


def full_stores() -> Iterator[Case]:
    """Not a byte more can be written, by a service's database as little as by its blob store."""
    for store in SERVICES:
        yield Case(f"{store}'s disk", "full", meanwhile=_fill(store))


def two_servers(chance: random.Random) -> Iterator[Case]:
    """What can happen to leader and helper in rounds of two servers, and between them."""
    yield from _steps_of_two_servers()
    helper = "keys.helper"
    for times in (2, 5):
        for point in ("database.committing", "database.committed", "keys.given.committed", "keys.given.noted"):
            yield Case(f"{point} ({helper})", _nth("killed", times), helper, point, f"kill@{times}")
    for point in ("aggregator.reports.verified", "aggregator.share.received"):
        process = TWO_SERVERS[point].processes[0]
        yield Case(_where(point, process), "Redis wiped", process, point, "hold", _wipe)
        for ahead_s in (120.0, -120.0):
            fault = f"all clocks {ahead_s:+.0f} s"
            yield Case(_where(point, process), fault, process, point, "hold", _clocks(ahead_s))
    for where, wires in HELPER_WIRES.items():
        for fault, weather in CUTS.items():
            yield Case(where, fault, meanwhile=_weather(weather, wires))
    gone = _weather(Weather(partition=True), HELPER_WIRES["aggregator - helper"], LONGER_THAN_A_ROUND_S)
    yield Case("aggregator - helper", "partition for longer than a round", meanwhile=gone)
    for name in (helper, "aggregator.worker", "aggregator.api"):
        yield Case(name, "killed at random", meanwhile=_hurt(name, Arena.kill, chance.uniform(0.0, 2.5)))
        yield Case(name, "SIGSTOP", meanwhile=_stop(name))
    yield Case(helper, "ended by SIGTERM", meanwhile=_hurt(helper, _terminate, chance.uniform(0.0, 2.5)))
    for store in ("helper", "aggregator"):
        yield Case(f"{store}'s disk", "full", meanwhile=_fill(store))
    for point in ("helper.report.judged", "helper.share.made"):
        fault, set_back = "database put back from an older copy", _set_back
        yield Case(_where(point, helper), fault, helper, point, "hold", set_back, forgets=True)
    yield from _databases_of_two_servers()


def _steps_of_two_servers() -> Iterator[Case]:
    shared = {point: POINTS[point] for point in SHARED}
    for point, facts in (TWO_SERVERS | shared).items():
        (process, *_) = facts.processes
        for time in facts.times if point in (*TWO_SERVERS, "aggregator.update.folded") else (1,):
            yield Case(_where(point, process), _nth("killed", time), process, point, f"kill@{time}")
    for point, facts in TWO_SERVERS.items():
        (process,) = facts.processes
        yield Case(_where(point, process), "paused", process, point, "hold", _after(LONGER_THAN_A_LEASE_S))


def _databases_of_two_servers() -> Iterator[Case]:
    for point in ("helper.round.begun", "helper.report.judged", "helper.set.agreed", "aggregator.share.received"):
        (process,) = TWO_SERVERS[point].processes
        yield Case(_where(point, process), "database restarted", process, point, "hold", _restart, postgres=True)
    for ahead_s in (120.0, -120.0):
        meanwhile = _clock("keys.helper", ahead_s)
        where, point = _where("helper.report.judged", "keys.helper"), "helper.report.judged"
        yield Case(where, f"clock {ahead_s:+.0f} s", "keys.helper", point, "hold", meanwhile, postgres=True)
    for fault, weather in CUTS.items():
        if fault != "closed early":
            yield Case("helper - database", fault, meanwhile=_weather(weather, HELPER_DATABASE), postgres=True)


def _where(point: str, process: str) -> str:
    return point if point.startswith(process) else f"{point} ({process})"


def _nth(fault: str, time: int) -> str:
    return fault if time == 1 else f"{fault}, time {time}"


def _after(seconds: float) -> Callable[[Arena], None]:
    return lambda arena: arena.pass_time(seconds)


def _clock(process: str, ahead_s: float) -> Callable[[Arena], None]:
    return lambda arena: arena.set_clock(process, ahead_s)


def _clocks(ahead_s: float) -> Callable[[Arena], None]:
    return lambda arena: arena.step_clocks(ahead_s)


def _weather(weather: Weather, wires: tuple[Wire, ...], for_s: float = SHORT_S) -> Callable[[Arena], None]:
    def meanwhile(arena: Arena) -> None:
        arena.weather(weather, *wires)
        arena.pass_time(for_s)
        arena.weather(FAIR, *wires)

    return meanwhile


def _hurt(name: str, how: Callable[[Arena, str], None], after_s: float) -> Callable[[Arena], None]:
    def meanwhile(arena: Arena) -> None:
        arena.pass_time(after_s)
        how(arena, name)

    return meanwhile


def _stop(name: str) -> Callable[[Arena], None]:
    def meanwhile(arena: Arena) -> None:
        arena.pass_time(0.5)
        arena.signal(name, signal.SIGSTOP)
        arena.pass_time(LONGER_THAN_A_LEASE_S)
        arena.signal(name, signal.SIGCONT)

    return meanwhile


def _fill(store: str) -> Callable[[Arena], None]:
    def meanwhile(arena: Arena) -> None:
        with arena.full_disk(store):
            arena.pass_time(SHORT_S)

    return meanwhile


def _wipe(arena: Arena) -> None:
    arena.wipe_redis()


def _set_back(arena: Arena) -> None:
    arena.set_back("helper", "keys.helper")


def _restart(arena: Arena) -> None:
    arena.restart_database()


def _terminate(arena: Arena, name: str) -> None:
    arena.platform.halt(name)
    arena.platform.resume(name)
