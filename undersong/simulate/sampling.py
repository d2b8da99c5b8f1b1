"""Who takes part in a round: chosen by the coordinator's rule or by tosses, less those that drop out. Pure."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from undersong.services.coordinator.domain.cohort import CohortRule, choose
from undersong.services.coordinator.domain.progress import Step
from undersong.shared.ids import SiteId
from undersong.simulate.conditions import LOGNORMAL, SampleRule, SlowRule

Clients = npt.NDArray[np.int64]
MOST_RANKED: Final = 10_000
"""Clients up to which a round's are chosen by the coordinator's own code, which ranks all of them."""


class Population:
    """The clients by number, and the ids by which manifests, seeds and the coordinator's choice know them."""

    def __init__(self, count: int, names: Sequence[str] = ()) -> None:
        self.count, self._names = count, tuple(names)
        self._digits = len(str(max(count - 1, 1)))

    def id_of(self, client: int) -> SiteId:
        """Return the client's id: its name where it has one, else its number."""
        return SiteId(self._names[client] if self._names else f"client-{client:0{self._digits}d}")

    def ids(self) -> list[SiteId]:
        """Return all ids."""
        return [self.id_of(client) for client in range(self.count)]


def rank_rule(rule: CohortRule, count: int) -> int:
    """Return how many clients the coordinator's rule asks in a round."""
    wanted = max(rule.min, math.ceil(rule.fraction * count))
    return wanted if rule.max is None else min(wanted, rule.max)


def cohort_of(sample: SampleRule, rule: CohortRule, clients: Population, step: Step) -> Clients:
    """Return the clients that the round asks, in ascending order; none where there are fewer than the rule's minimum.

    Tosses are independent: each client is in with the same probability.
    """
    random = generator("cohort", rule.seed, step.draw)
    if sample.tossed and sample.share is not None:
        return np.flatnonzero(random.random(clients.count) < sample.share)
    wanted = rank_rule(rule, clients.count)
    if clients.count < rule.min:
        return np.zeros(0, np.int64)
    if wanted >= clients.count:
        return np.arange(clients.count)
    if clients.count <= MOST_RANKED:
        ids = clients.ids()
        chosen = set(choose(ids, rule, step.draw))
        return np.array([at for at, each in enumerate(ids) if each in chosen], np.int64)
    return np.sort(random.choice(clients.count, wanted, replace=False, shuffle=False))


def answering(cohort: Clients, drop: float, seed: int, step: Step) -> npt.NDArray[np.bool_]:
    """Return which clients of the cohort answer: each drops out with the same probability."""
    if not drop:
        return np.ones(cohort.size, bool)
    return generator("drop", seed, step.draw).random(cohort.size) >= drop


def slowness_of(rule: SlowRule, clients: int, seed: int) -> npt.NDArray[np.float64]:
    """Return how many times as long as an ordinary client each client takes, float64[clients]."""
    random = generator("slow", seed, "")
    if rule.kind == LOGNORMAL:
        return np.exp(rule.value * random.standard_normal(clients))
    times = np.ones(clients)
    times[random.permutation(clients)[: round(rule.value * clients)]] = rule.factor
    return times


@dataclass(frozen=True, slots=True)
class Timed:
    """Which clients' answers a round takes, how long it lasts, and how many others came too late."""

    takes: Clients
    seconds: float
    late: int


def timed(clients: Clients, took_s: npt.NDArray[np.float64], target: int, deadline_s: float) -> Timed:
    """Return what comes of a round that ends when `target` clients have answered, or at its deadline.

    clients: those that answer at some time, in ascending order; took_s: after how many seconds each does.
    """
    order = np.argsort(took_s, kind="stable")
    order = order[took_s[order] <= deadline_s]
    enough = order.size >= target
    order = order[:target]
    seconds = float(took_s[order[-1]]) if enough and order.size else deadline_s
    return Timed(clients[np.sort(order)], seconds, int(clients.size - order.size))


def generator(purpose: str, seed: int, draw: str) -> np.random.Generator:
    """Return the random numbers of one purpose in one round."""
    digest = hashlib.sha256(f"undersong/simulate/{purpose}/{seed}/{draw}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def key_of(purpose: str, seed: int, draw: str, client: str = "") -> bytes:
    """Return the 32 bytes from which a client's rounding, or a server's noise, follows in one round.

    They follow from the seed, so that a simulation can be repeated: they keep nothing secret.
    """
    return hashlib.sha256(f"undersong/simulate/key/{purpose}/{seed}/{draw}/{client}".encode()).digest()
