"""Rounds with noise, and a ledger on real files, for tests."""

from pathlib import Path
from typing import Any

from tests.shared.wire.manifests import manifest
from undersong.services.agent.domain.budgets import Budget, PrivacyRule
from undersong.services.agent.ledger.book import Ledger
from undersong.services.agent.ledger.mark import LedgerMark
from undersong.services.agent.repository.highwater import SentMessages
from undersong.services.agent.repository.state import AgentState
from undersong.shared.wire.manifest import Encoding, RoundManifest
from undersong.shared.wire.privacy import GaussianEvent, PrivacyEvent, PrivacyUnit

ENCODING = Encoding(modulus_bits=32, max_summands=3, bound=2**16, scale=2**16 / 5, max_weight=1, clip_norm=5.0)
DELTA = 1e-6


def terms(noise: float = 10.0, *, rounds: int = 3) -> dict[str, Any]:
    """The privacy terms of a job whose sites add enough noise each for itself, as an honest coordinator states them."""
    from undersong.shared.privacy.accounting import epsilon_of

    cost = epsilon_of([GaussianEvent(noise_multiplier=noise, count=rounds)], DELTA)
    given = {"model": "local", "unit": "site", "noise_multiplier": noise, "delta": DELTA, "epsilon": cost}
    return {**given, "rounds": rounds, "min_sites": 2}


def private(
    number: int = 1, *, noise: float = 10.0, rounds: int = 3, attempt: int = 1, **changes: Any
) -> RoundManifest:
    """A training round with noise."""
    return manifest(
        number=number,
        attempt=attempt,
        round_id=f"rnd_{changes.get('job_id', 'job_1')}_{number}_{attempt}",
        encoding=changes.pop("encoding", ENCODING),
        privacy={**terms(noise, rounds=rounds), **changes.pop("terms", {})},
        **changes,
    )


def gaussian(noise: float = 10.0) -> PrivacyEvent:
    """What such a round costs."""
    return GaussianEvent(noise_multiplier=noise)


def budget(epsilon: float, *, days: int = 365, unit: PrivacyUnit = PrivacyUnit.SITE) -> PrivacyRule:
    """A policy with one budget."""
    return PrivacyRule(budgets={"heart": (Budget(unit, epsilon, DELTA, days),)})


class Site:
    """State folder, high-water file and ledger of a site whose agent is stopped and started by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        """Open everything as an agent does at its start."""
        self.sent = SentMessages(self.folder / "high-water")
        self.state = AgentState(self.folder / "state")
        self.state.keep_beside(self.sent)
        self.mark = LedgerMark(self.folder / "high-water")
        self.ledger = Ledger(self.state.store, self.mark, self.sent)

    def stop(self) -> None:
        """Close everything; nothing is written."""
        self.state.close()
        self.sent.close()

    def again(self) -> "Site":
        """Restart."""
        self.stop()
        self.start()
        return self
