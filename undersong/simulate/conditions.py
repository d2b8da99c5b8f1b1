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
QUANTISED: Final = "quantised"
PLAIN: Final = "plain"
ENGINES: Final = (QUANTISED, PLAIN)
MOST_CLIENTS: Final = 10**7
MOST_WORKERS: Final = 256


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
class Conditions:
    """The conditions of a simulation, beside its job and data.

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
) -> Conditions:
    """Return the conditions that these texts and numbers name; raises `ConditionsInvalid` with what to write."""
    if clients is not None and not 1 <= clients <= MOST_CLIENTS:
        raise ConditionsInvalid(f"{clients} clients cannot be simulated", remedy=f"give 1 to {MOST_CLIENTS}")
    if not 0 <= drop < 1:
        raise ConditionsInvalid(f"drop is {drop:g}, and it is a probability", remedy="give 0 <= drop < 1")
    if seed is not None and not 0 <= seed < 2**53:
        raise ConditionsInvalid(f"seed is {seed}", remedy="give a whole number from 0 to 2**53 - 1")
    if engine not in ENGINES:
        said = f"there is no engine {engine!r} to simulate with{hint(engine, ENGINES)}"
        raise ConditionsInvalid(said, remedy="the engine of the deployed rounds is the job's own field")
    if noise_servers not in (1, 2):
        raise ConditionsInvalid(f"noise of {noise_servers} servers", remedy="give 2 as deployed, or 1 trusted server")
    rule, asked = partition_of(partition), sample_of(sample)
    return Conditions(clients, rule, asked, drop, seed, engine, noise_servers)


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


def workers_of(value: str | int, cores: int) -> int:
    """Return how many worker processes are meant; `auto` is one for each core. Raises `ConditionsInvalid`."""
    if value == "auto":
        return max(1, cores)
    number = _number(str(value))
    if number is None or number != int(number) or not 0 <= number <= MOST_WORKERS:
        raise ConditionsInvalid(
            f"{value!r} is no number of workers{hint(str(value), ['auto'])}",
            remedy=f"give auto, a number up to {MOST_WORKERS}, or 0 to work in this process",
        )
    return int(number)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
