"""Reads the site's files at the start and again after each change, and says so where they cannot be used."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from undersong.services.agent.domain.rules import SITE_UNREADABLE, TaskFailure
from undersong.services.agent.policy import file as policies
from undersong.services.agent.policy.owners import load_policy
from undersong.services.agent.rounds.setup import SiteSetup
from undersong.services.agent.runner.warm import WarmRunner
from undersong.services.agent.settings import AgentSettings, ConfigError
from undersong.services.agent.site.description import (
    SNAPSHOTS,
    Marks,
    data_files,
    ensure_policy,
    make_runner,
    read_site,
)
from undersong.services.agent.site.profile import profile_of
from undersong.services.agent.site.snapshots import QUIET_S, Snapshots
from undersong.shared.wire.profiles import ProfileFault, SiteProfile

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
"""How often an agent without work looks whether a file changed."""
RETRY_S: Final = 5.0
"""After this a site that could not be read is read again, whether a file changed or not."""
MENDED_S: Final = 2.0
"""The same for a changed data file where a data set cannot be read, so that a corrected file is seen soon."""
QUERY_S: Final = 2.0
"""How long the agent waits for the rows of a query that it just asked; longer ones are read when they are there."""
SETTLE_S: Final = 2.0
"""How long a task waits for a file that has just become unreadable."""


class SiteReader:
    """The site as its files describe it now; `site`, `profile` and `runner` are there after the first reading.

    `fault` is the code of what makes the site unable to do any work, None where it is able.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._runner: WarmRunner | None = None
        self._site: SiteSetup | None = None
        self._profile: SiteProfile | None = None
        self._marks: Marks | None = None
        self._worked_at = -math.inf
        self._snapshots = Snapshots(
            settings.datasets, settings.data_dir / SNAPSHOTS, lambda: time.monotonic() - self._worked_at > QUIET_S
        )
        self._data: list[Path] = []  # the files of all data sets
        self._read_at = -math.inf
        self._faulty_at = -math.inf
        self.unread: Mapping[str, str] = {}  # why data sets cannot be used
        self.fault: str | None = None

    @property
    def site(self) -> SiteSetup:
        """The facts and the policy that tasks are judged by."""
        assert self._site is not None  # noqa: S101 (read before the first task)
        return self._site

    @property
    def runner(self) -> WarmRunner:
        """Where recipes run."""
        assert self._runner is not None  # noqa: S101 (read before the first task)
        return self._runner

    @property
    def profile(self) -> SiteProfile:
        """What the platform is told: while the site cannot work, that it can do nothing, and why."""
        assert self._profile is not None  # noqa: S101 (read before it is told)
        if self.fault is None:
            return self._profile
        faults = (ProfileFault(code=self.fault),)
        return self._profile.model_copy(update={"recipes": (), "datasets": (), "faults": faults})

    async def start(self, who: tuple[str, str]) -> None:
        """Read for the first time, again and again where a child fails; ConfigError where a person must act first."""
        while self._site is None:
            await self.refresh(who, first=True)
            if self._site is None:
                await asyncio.sleep(RETRY_S)

    async def settle(self, who: tuple[str, str]) -> None:
        """Refresh before a task; what was found unreadable just now may be a file that is being written."""
        self._worked_at = time.monotonic()
        await self.refresh(who)
        while self.fault is not None and time.monotonic() - self._faulty_at < SETTLE_S:
            await asyncio.sleep(SETTLE_S / 10)
            await self.refresh(who)

    async def refresh(self, who: tuple[str, str], *, first: bool = False) -> None:
        """Read policy, data sets and recipes if a file changed. A change that cannot be used is told in `fault`.

        A first policy is written only before one was ever read here: a policy that is gone later, as while its owner
        exchanges it or its volume is not mounted, allows nothing.
        """
        if self.changed():
            await self._read_again(who, first=first)
        if self._site is not None:  # its policy says which queries may be asked
            await self._snapshots.refresh(self._site.policy.datasets, within_s=QUERY_S)
            if self._snapshots.news:
                await self._read_again(who, first=False)

    async def _read_again(self, who: tuple[str, str], *, first: bool) -> None:
        self._snapshots.told()
        files = [path for paths in data_files(self._settings).values() for path in paths]
        before, fault = Marks.of(self._settings, files), None
        try:
            if not self._policy_read.exists() and await ensure_policy(self._settings):
                before = Marks.of(self._settings, files)
            await self._read(who)
        except (ConfigError, TaskFailure) as error:
            if first and isinstance(error, ConfigError):
                raise
            log.warning("site.unreadable", reason=str(error), text=getattr(error, "text", None))
            fault = error.code if isinstance(error, policies.PolicyError) else SITE_UNREADABLE
        if fault is not None and self.fault is None:
            self._faulty_at = time.monotonic()
        self.fault = fault
        self._marks = before if before.times == Marks.of(self._settings).times else None
        self._data, self._read_at = files, time.monotonic()

    def changed(self) -> bool:
        """Return whether a file that describes the site changed; data files, which may grow all day, count once in a
        while.
        """
        marks, age_s = Marks.of(self._settings, self._data), time.monotonic() - self._read_at
        if self._marks is None or marks.times != self._marks.times or self._snapshots.news:
            return True
        if self.fault is not None:
            return age_s >= RETRY_S
        again_s = self._settings.data_again_s
        return marks != self._marks and age_s >= (min(MENDED_S, again_s) if self.unread else again_s)

    @property
    def _policy_read(self) -> Path:
        """The file that says that a policy was read here once."""
        return self._settings.data_dir / "policy-read"

    async def close(self) -> None:
        """End the recipes' children and the queries that are being asked."""
        await self._snapshots.close()
        await self._close_runner()

    async def _close_runner(self) -> None:
        if self._runner is not None:
            await self._runner.close()

    async def _read(self, who: tuple[str, str]) -> None:
        settings = self._settings
        policy, zone = load_policy(settings, note=True)
        self._policy_read.touch()
        await self._close_runner()
        runner = self._runner = make_runner(settings, policy)
        await runner.clean()
        self._site, description = await read_site(
            settings,
            runner,
            policy,
            lambda: datetime.now(zone),
            who,
            strict=self._site is None,
            reasons=self._snapshots.reasons,
        )
        self._profile, self.unread = profile_of(description, policy, settings.runner), description.unread
