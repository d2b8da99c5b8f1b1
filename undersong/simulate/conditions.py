"""What a simulation varies: clients, how rows are dealt to them, who takes part, who drops out. Texts in, rules out."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from undersong.errors import UndersongError
from undersong.shared.names import hint

IID: Final = "iid"
DIRICHLET: Final = "dirichlet"
SHARDS: Final = "shards"
BY: Final = "by"
SITES: Final = "sites"
"""The partition of data that come as one data set for each client already."""
PARTITIONS: Final = (IID, DIRICHLET, SHARDS, BY)
POISSON: Final = "poisson"
LOGNORMAL: Final = "lognormal"
SHARE: Final = "share"
ROUND_S: Final = 60.0
MOST_ROUND_S: Final = 1e6
MOST_SPREAD: Final = 5.0
MOST_FACTOR: Final = 1e6
QUANTISED: Final = "quantised"
PLAIN: Final = "plain"
ENGINES: Final = (QUANTISED, PLAIN)
MOST_CLIENTS: Final = 10**7
MOST_WORKERS: Final = 256
RAY: Final = "ray"


class ConditionsInvalid(UndersongError):
    """A condition of the simulation cannot be met, or is not one."""


@dataclass(frozen=True, slots=True)
class PartitionRule:
    """How training rows are dealt: `value` is the Dirichlet concentration or the shards a client has, `column` a name.

    iid: shuffled, equally many each. dirichlet: as many each, classes drawn for each client. shards: sorted by label,
    cut, `value` pieces each. by: one client for each value of a column.
    """

    kind: str
    value: float = 0.0
    column: str = ""

    def __str__(self) -> str:
        return self.kind if self.kind in (IID, SITES) else f"{self.kind}:{self.column or f'{self.value:g}'}"


@dataclass(frozen=True, slots=True)
class SampleRule:
    """Which clients a round asks: the job's own rule, a share instead of the job's, or each by a toss (`tossed`)."""

    share: float | None = None
    tossed: bool = False


@dataclass(frozen=True, slots=True)
class SlowRule:
    """How much longer than an ordinary client a client takes, the same in all rounds.

    lognormal: each exp(`value` z), z drawn from a standard normal distribution. share: a share `value` of the clients
    takes `factor` times as long.
    """

    kind: str
    value: float
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of a simulation, beside its job and data.

    slow: without it rounds take no simulated time. round_s: the seconds that an ordinary client with an average number
    of rows takes for a round.
    drop: the probability with which a client that was asked does not answer. seed: without it the job's `cohort.seed`.
    noise_servers: how many servers add noise under `privacy.model: server`; two as deployed, one as with a trusted
    server.
    """

    clients: int | None = None
    partition: PartitionRule = PartitionRule(IID)
    sample: SampleRule = SampleRule()
    drop: float = 0.0
    seed: int | None = None
    engine: str = QUANTISED
    noise_servers: int = 2
    slow: SlowRule | None = None
    round_s: float = ROUND_S

    def document(self) -> dict[str, Any]:
        """Return the conditions as JSON."""
        return asdict(self)


def conditions_of(
    *,
    clients: int | None = None,
    partition: str = IID,
    sample: str | float | None = None,
    drop: float = 0.0,
    seed: int | None = None,
    engine: str = QUANTISED,
    noise_servers: int = 2,
    slow: str | None = None,
    round_s: float | None = None,
) -> Conditions:
    """Return the conditions that these texts and numbers name; raises `ConditionsInvalid` with what to write."""
    if clients is not None and not (_is_whole(clients) and 1 <= clients <= MOST_CLIENTS):
        raise ConditionsInvalid(f"{clients} clients cannot be simulated", remedy=f"give 1 to {MOST_CLIENTS}")
    if not 0 <= drop < 1:
        raise ConditionsInvalid(f"drop is {drop:g}, and it is a probability", remedy="give 0 <= drop < 1")
    if seed is not None and not (_is_whole(seed) and 0 <= seed < 2**53):
        raise ConditionsInvalid(f"seed is {seed}", remedy="give a whole number from 0 to 2**53 - 1")
    if engine not in ENGINES:
        said = f"there is no engine {engine!r} to simulate with{hint(engine, ENGINES)}"
        raise ConditionsInvalid(said, remedy="the engine of the deployed rounds is the job's own field")
    if noise_servers not in (1, 2):
        raise ConditionsInvalid(f"noise of {noise_servers} servers", remedy="give 2 as deployed, or 1 trusted server")
    if round_s is not None and slow is None:
        raise ConditionsInvalid("seconds of a round are counted only where clients differ", remedy="give --slow, too")
    if round_s is not None and not 0 < round_s <= MOST_ROUND_S:
        raise ConditionsInvalid(f"a round of {round_s:g} seconds", remedy=f"give more than 0, at most {MOST_ROUND_S:g}")
    rule, asked = partition_of(partition), sample_of(sample)
    slowness = None if slow is None else slow_of(slow)
    length = ROUND_S if round_s is None else round_s
    return Conditions(clients, rule, asked, drop, seed, engine, noise_servers, slowness, length)


def partition_of(text: str) -> PartitionRule:
    """Return the partition that a text names; raises `ConditionsInvalid`."""
    kind, colon, value = text.strip().partition(":")
    if kind not in PARTITIONS:
        raise ConditionsInvalid(
            f"there is no partition {kind!r}{hint(kind, PARTITIONS)}",
            remedy="iid, dirichlet:0.3 (concentration), shards:2 (shards a client), or by:COLUMN",
        )
    if kind == IID:
        if colon:
            raise ConditionsInvalid(f"partition iid takes no value, and {value!r} is given", remedy="write iid")
        return PartitionRule(IID)
    if kind == BY:
        if not value:
            raise ConditionsInvalid("partition by needs a column", remedy="write by:COLUMN")
        return PartitionRule(BY, column=value)
    number = _number(value)
    if kind == SHARDS:
        if number is None or number != int(number) or not 1 <= number <= 10_000:
            raise ConditionsInvalid(f"partition {text!r} needs a whole number of shards", remedy="write shards:2")
        return PartitionRule(SHARDS, number)
    if number is None or not 1e-3 <= number <= 1e6:
        raise ConditionsInvalid(
            f"partition {text!r} needs a concentration from 0.001 to 1,000,000", remedy="write dirichlet:0.3"
        )
    return PartitionRule(DIRICHLET, number)


def sample_of(value: str | float | None) -> SampleRule:
    """Return the rule of who is asked; raises `ConditionsInvalid`."""
    if value is None:
        return SampleRule()
    kind, colon, text = str(value).strip().rpartition(":")
    if colon and kind != POISSON:
        raise ConditionsInvalid(
            f"there is no way {kind!r} to sample{hint(kind, [POISSON])}", remedy="0.1 or poisson:0.1"
        )
    share = _number(text)
    if share is None or not 0 < share <= 1:
        raise ConditionsInvalid(
            f"sample {value!r} is no share of the clients", remedy="give 0 < share <= 1, such as 0.1 or poisson:0.1"
        )
    return SampleRule(share, bool(colon))


def slow_of(text: str) -> SlowRule:
    """Return the rule of how slow clients are; raises `ConditionsInvalid`."""
    remedy = "write lognormal:1 (the spread), or 0.1:10 (a tenth of the clients takes ten times as long)"
    kind, _, value = text.strip().rpartition(":")
    number, share = _number(value), _number(kind)
    if kind == LOGNORMAL:
        if number is None or not 0 <= number <= MOST_SPREAD:
            raise ConditionsInvalid(f"slow {text!r} needs a spread from 0 to {MOST_SPREAD:g}", remedy=remedy)
        return SlowRule(LOGNORMAL, number)
    if share is None:
        raise ConditionsInvalid(f"slow {text!r} is no way to be slow{hint(kind, [LOGNORMAL])}", remedy=remedy)
    if not 0 < share < 1 or number is None or not 1 <= number <= MOST_FACTOR:
        said = f"slow {text!r} needs a share between 0 and 1 and a factor from 1 to {MOST_FACTOR:g}"
        raise ConditionsInvalid(said, remedy=remedy)
    return SlowRule(SHARE, share, number)


@dataclass(frozen=True, slots=True)
class RayAddress:
    """Where chunks run as tasks of Ray: at an address, or for an empty one on this machine."""

    text: str = ""


def workers_of(value: str | int, cores: int) -> int | RayAddress:
    """Return how many worker processes are meant, `auto` for one on each core, or which Ray; raises
    `ConditionsInvalid`.
    """
    kind, _, address = str(value).partition(":")
    if kind == RAY:
        return RayAddress(address)
    if value == "auto":
        return max(1, cores)
    number = _number(str(value))
    if number is None or number != int(number) or not 0 <= number <= MOST_WORKERS:
        raise ConditionsInvalid(
            f"{value!r} is no number of workers{hint(str(value), ['auto', RAY])}",
            remedy=f"give auto, a number up to {MOST_WORKERS}, 0 to work in this process, ray or ray:ADDRESS",
        )
    return int(number)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
