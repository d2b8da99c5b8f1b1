"""The sweeper: looks at SQL at a fixed pace and does what every lost hint should have caused."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from undersong.shared.telemetry.metrics import SWEEPER_REPAIRS

log = structlog.get_logger(__name__)


class Sweeper:
    """Runs the jobs at once and then every `period_s`; each gives the number of things it had to repair.

    `housekeeping`: what the jobs do is no repair, and is not counted as one. While `when` is false nothing is done.
    """

    def __init__(
        self,
        period_s: float,
        jobs: Mapping[str, Callable[[], Awaitable[int]]],
        *,
        housekeeping: bool = False,
        when: Callable[[], bool] = lambda: True,
    ) -> None:
        self._housekeeping, self._when = housekeeping, when
        self._period_s = period_s
        self._jobs = dict(jobs)

    async def run(self) -> None:
        """Sweep until cancelled; a job that fails is logged and tried again at the next sweep."""
        while True:
            if self._when():
                for kind, job in self._jobs.items():
                    await self._sweep(kind, job)
            await asyncio.sleep(self._period_s)

    async def _sweep(self, kind: str, job: Callable[[], Awaitable[int]]) -> None:
        try:
            repairs = await job()
        except Exception:
            log.exception("sweeper.failed", kind=kind)
            return
        if repairs and not self._housekeeping:
            SWEEPER_REPAIRS.labels(kind).inc(repairs)
            log.info("sweeper.repaired", kind=kind, repairs=repairs)
