"""The ledger as an owner reads it: what was spent of each budget, and all lines as one document. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from undersong.services.agent.domain.budgets import Budget, PrivacyRule
from undersong.services.agent.ledger import rules
from undersong.services.agent.ledger.entries import FIELDS, Chain, Line, State, noisy
from undersong.shared.privacy.accounting import ACCOUNTANT, epsilon_of
from undersong.shared.wire.privacy import NEIGHBOURS, NonPrivateEvent, PrivacyUnit

FORM: Final = "undersong/ledger/1"


@dataclass(frozen=True, slots=True)
class Spending:
    """What one data set's rounds cost one unit: within the budget's period, or ever where there is no budget.

    epsilon: of the rounds with noise, at `delta`; where there is a budget also those on data sets that read the same
    files, as they are spent of it. exact: answers without noise, which no epsilon bounds, counted likewise. held, final
    and void: of its own charges.
    """

    dataset: str
    unit: PrivacyUnit
    budget: Budget | None
    epsilon: float
    delta: float
    held: int
    final: int
    void: int
    exact: int

    @property
    def left(self) -> float | None:
        """What is left of the budget; None where there is none."""
        return None if self.budget is None else max(0.0, self.budget.epsilon - self.epsilon)

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        budget = self.budget
        return {
            "dataset": self.dataset,
            "unit": str(self.unit),
            "period_days": budget.period_days if budget is not None else None,
            "budget": budget.epsilon if budget is not None else None,
            "delta": self.delta,
            "epsilon": self.epsilon,
            "left": self.left,
            "held": self.held,
            "final": self.final,
            "void": self.void,
            "exact": self.exact,
        }


def accounts(chain: Chain, rule: PrivacyRule, now_ms: int) -> list[Spending]:
    """Return one account for each data set and unit that has a budget or a charge, by name."""
    named = {(name, budget.unit) for name, budgets in rule.budgets.items() for budget in budgets}
    named |= {(charge.held.dataset, PrivacyUnit(charge.held.unit)) for charge in chain.charges.values()}
    return [_account(chain, dataset, unit, rule, now_ms) for dataset, unit in sorted(named)]


def _account(chain: Chain, dataset: str, unit: PrivacyUnit, rule: PrivacyRule, now_ms: int) -> Spending:
    budget = rule.budget(dataset, unit)
    begin = None if budget is None else now_ms - budget.period_ms
    delta = budget.delta if budget is not None else rules.EXACT_DELTA
    names = [dataset] if budget is None else rule.names(dataset)  # a budget is spent under every name of its rows
    spent = [event for name in names for event in chain.spent(name, unit, begin)]
    mine = [
        charge.state
        for charge in chain.charges.values()
        if (charge.held.dataset, charge.held.unit) == (dataset, unit) and (begin is None or charge.held.at_ms > begin)
    ]
    return Spending(
        dataset=dataset,
        unit=unit,
        budget=budget,
        epsilon=epsilon_of(noisy(spent), delta),
        delta=delta,
        held=mine.count(State.HELD),
        final=mine.count(State.FINAL),
        void=mine.count(State.VOID),
        exact=sum(isinstance(event, NonPrivateEvent) for event in spent),
    )


def exported(
    chain_lines: Sequence[tuple[Line, str]],
    fault: str | None,
    found: Sequence[Spending],
    secret: bytes | None = None,
    site_id: str | None = None,
) -> dict[str, Any]:
    """Return the whole ledger as a document that `checked` reads again: each line with its hash.

    secret: that under which the ledger's heads are in the transparency log, to compare them with it.
    """
    return {
        "form": FORM,
        "neighbours": NEIGHBOURS,
        "accountant": f"{ACCOUNTANT} {_version()}",
        "fault": fault,
        "site_id": site_id,
        "head_secret": secret.hex() if secret is not None else None,
        "accounts": [account.document() for account in found],
        "lines": [{**line.document(), "state": str(line.state), "hash": digest} for line, digest in chain_lines],
    }


def checked(document: Any) -> Chain:
    """Return the chain of an exported ledger; its `fault` says where it does not hold. ValueError for another file."""
    if not isinstance(document, dict) or document.get("form") != FORM or not isinstance(document.get("lines"), list):
        raise ValueError(f"this is no exported ledger ({FORM})")
    rows = [line if isinstance(line, dict) else {} for line in document["lines"]]
    return Chain().read(([row.get(name) for name in FIELDS], row.get("hash", "")) for row in rows)


def secret_in(document: Mapping[str, Any]) -> bytes | None:
    """Return the secret of an exported ledger's heads; None where it has none. ValueError for text that is none."""
    found = document.get("head_secret")
    if found is None:
        return None
    return bytes.fromhex(str(found))


def bar(part: float, width: int = 20) -> str:
    """Return a bar that is filled to this part of it; more than all of it is filled to the end."""
    filled = width if not math.isfinite(part) else min(width, max(0, round(part * width)))
    return "█" * filled + "░" * (width - filled)


def _version() -> str:
    try:
        return version(ACCOUNTANT)
    except PackageNotFoundError:
        return "(not installed)"
