"""What a task has at hand: the services' clients, and what holds at the site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from undersong.services.agent.domain.rules import Policy, SiteFacts
from undersong.services.agent.peers.aggregator import Aggregator
from undersong.services.agent.peers.coordinator import Coordinator
from undersong.services.agent.peers.keys import Signatures
from undersong.services.agent.peers.registry import Registry
from undersong.shared.identity.authority import Identity


@dataclass(frozen=True, slots=True)
class ServiceClients:
    """The services, as this agent reaches them."""

    coordinator: Coordinator
    aggregator: Aggregator
    registry: Registry
    signatures: Signatures
    identity: Callable[[], Identity]


@dataclass(frozen=True, slots=True)
class SiteSetup:
    """What holds at this site while a task runs."""

    facts: SiteFacts
    policy: Policy
    local_now: Callable[[], datetime]
    work_dir: Path
