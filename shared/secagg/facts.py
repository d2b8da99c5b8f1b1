"""What services need to know of an engine, as facts: who takes part, what is proved, what a person should be told.

A service asks one of these facts, never an engine's name. They are independent of each other, so that a new engine can
have any of them. This module and every engine's `facts` import no kernels: the coordinator, the agent and the
dashboard name engines, and must not pay for code that only a round needs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import JsonValue

from undersong.shared.errors import Invalid
from undersong.shared.wire.manifest import Encoding, RoundKind

UPLOAD: Final = "upload"
WITNESS: Final = "witness"
"""The party that signs one roster and one survivor set for a round: the keys service."""
TAIL_WORDS: Final = 18
"""Words behind a training update's coordinates: weight, clipped and loss, each in six limbs of 8 bits."""


class EngineUnknown(Invalid):
    """No engine has this name."""


@dataclass(frozen=True, slots=True)
class PartyFacts:
    """A party that the server asks, beside the sites.

    count: how many of them there are. need: how many of their answers suffice. opens_sum: its answer opens the sum, so
    from the moment it is asked the same round is never answered again.
    """

    name: str
    count: int = 1
    need: int = 1
    opens_sum: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.need <= self.count:
            raise ValueError(f"{self.need} of {self.count} answers of a {self.name} cannot be needed")


@dataclass(frozen=True, slots=True)
class Wording:
    """What a person should know of an engine.

    description: one sentence about who sees what. protection: how each update is hidden, for the dashboard. seen_by:
    who can see a single update, for a site's policy file. collusion: who must not work together, for datasheets.
    """

    description: str
    protection: str
    seen_by: str
    collusion: str


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a job asks of a round's engine, for which `EngineFacts.plan` gives the manifest's `engine_params`."""

    kind: RoundKind
    sites: int
    norm_equality_proofs: int | None = None


Planner = Callable[[PlanRequest], dict[str, JsonValue]]


def any_encoding(encoding: Encoding) -> None:
    """Accept every encoding: the engine sums words modulo a power of two or a prime that holds the sum."""


def no_params(request: PlanRequest) -> dict[str, JsonValue]:  # noqa: ARG001
    """Return nothing: the manifest says all that the engine needs."""
    return {}


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The facts of one engine.

    steps: the messages of a site, in order; one of them is `UPLOAD`. smallest: fewer sites than this it does not serve.
    code, audit: where its `Engine` and its `EngineAudit` are, as ``module:attribute``. kernels: modules whose code is
    compiled. parties: whom the server asks. vouched_by: the service whose signature over the set of summed updates is
    in the round's record; None where that rests on the aggregator's word. commits_nonce: the manifest names a nonce to
    which the witness committed. sees_updates: the aggregator can see each update, and check each. second_server: a
    second server verifies each report together with the aggregator. proves_norm, proves_counts: a training update's
    L2 norm, and each of a statistic's counts, is proved to be within bounds. adds_noise: the servers can add noise to
    a sum. sums_site_noise: only the sum of updates is opened, so that a part of the noise on each suffices. weighted:
    sites weigh by their examples; otherwise all the same. tail_words: words that follow the coordinates of a training
    update. check_encoding: raises a Refusal, with the numbers, where sums in this encoding could not be
    read. single_use_ids: the field of an update's material that is accepted once in a job. fixed_bytes: what a
    body may have beside what grows with the update.
    """

    name: str
    steps: tuple[str, ...]
    smallest: int
    wording: Wording
    code: str
    audit: str
    kernels: tuple[str, ...] = ()
    parties: tuple[PartyFacts, ...] = ()
    vouched_by: str | None = None
    commits_nonce: bool = False
    sees_updates: bool = False
    second_server: bool = False
    proves_norm: bool = False
    proves_counts: bool = False
    adds_noise: bool = False
    sums_site_noise: bool = False
    weighted: bool = True
    tail_words: int = TAIL_WORDS
    single_use_ids: str | None = None
    fixed_bytes: int = 0
    plan: Planner = field(default=no_params)
    check_encoding: Callable[[Encoding], None] = field(default=any_encoding)

    @property
    def strength(self) -> Literal["weak", "strong"]:
        """How strong it is, in one word."""
        return "weak" if self.sees_updates else "strong"

    @property
    def tracks_steps(self) -> bool:
        """Whether sites or another party have a say before a sum is opened, so that the server records each step."""
        return len(self.steps) > 1 or bool(self.parties)

    @property
    def opened_by_parties(self) -> bool:
        """Whether the answer of another party opens the sum, not the sites' last message."""
        return any(party.opens_sum for party in self.parties)

    def asks(self, party: str) -> bool:
        """Return whether the server asks this party."""
        return any(each.name == party for each in self.parties)
