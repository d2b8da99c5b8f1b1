"""What a request may cost of the owner's budgets, beside what is left of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from undersong.services.agent.consent.requests import ConsentRequest
from undersong.services.agent.domain.budgets import PrivacyRule
from undersong.services.agent.ledger.accounts import accounts
from undersong.services.agent.ledger.book import Ledger
from undersong.services.agent.ledger.mark import LedgerMark
from undersong.services.agent.repository.highwater import SentMessages
from undersong.services.agent.repository.store import Store
from undersong.services.agent.settings import AgentSettings


def ledger_of(settings: AgentSettings, store: Store, sent: SentMessages | None = None) -> Ledger:
    """Return the ledger in an agent's database, to be read."""
    return Ledger(store, LedgerMark(settings.high_water), sent)


def costs(request: ConsentRequest, ledger: Ledger, rule: PrivacyRule) -> Iterator[tuple[str, str]]:
    """Yield a line for each budget of the request's data set: its name, and what is planned, left and allowed."""
    chain, fault = ledger.look()
    if fault is not None:
        yield "ledger", f"cannot be relied on: {fault}"
    found = [each for each in accounts(chain, rule, ledger.now()) if each.dataset == request.dataset]
    for each in found:
        if each.budget is None:
            continue
        planned = request.epsilon(each.unit, each.budget.delta)
        said = "without a bound" if math.isinf(planned) else f"epsilon {planned:g}"
        yield (
            f"budget for each {each.unit}",
            f"planned {said}, left {each.left:g} of {each.budget.epsilon:g} in {each.budget.period_days} days",
        )
    if not any(each.budget for each in found):
        yield "budget", "none: policy.yaml limits no epsilon of this data set"
