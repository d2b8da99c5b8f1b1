"""Processes that can die between any two effects, and the wires between them.

Which process runs is known to whatever it calls (`RUNNING`), so that an effect is always the effect of a process.
"""

import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import httpx
from fastapi import FastAPI


class Crash(BaseException):
    """The process is gone."""


@dataclass
class Process:
    """One start of a process. Once it has crashed, nothing that it still runs has an effect."""

    name: str
    fuse: int | None = None
    at: str | None = None
    crashed: bool = False

    def effect(self, point: str) -> None:
        """Something is about to be done for good, or was just done: the moment to die at."""
        if self.fuse is not None:
            self.fuse -= 1
            self.crashed = self.crashed or self.fuse <= 0
        self.crashed = self.crashed or self.at == point
        if self.crashed:
            raise Crash(f"{self.name} at {point}")


OUTSIDE: Final = Process("outside")
RUNNING: contextvars.ContextVar[Process] = contextvars.ContextVar("running", default=OUTSIDE)


class Housed(Protocol):
    """As much of the platform as a wire needs."""

    processes: dict[str, Process]

    async def restart(self, name: str) -> None:
        """A new start of a process."""

    def heard(self, request: httpx.Request, response: httpx.Response) -> None:
        """Something was answered."""


class Wire(httpx.AsyncBaseTransport):
    """Calls an application as the process that serves it; what crashes there is a lost connection here."""

    def __init__(self, platform: Housed, name: str, app: Callable[[], FastAPI]) -> None:
        self._house, self._name, self._app = platform, name, app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        RUNNING.get().effect("call.unsent")
        inner = httpx.ASGITransport(self._app())
        token = RUNNING.set(self._house.processes[self._name])
        try:
            response = await inner.handle_async_request(request)
        except BaseException as error:
            if not is_crash(error):
                raise
            RUNNING.reset(token)
            await self._house.restart(self._name)
            raise httpx.ReadError("the other process died") from None
        RUNNING.reset(token)
        await response.aread()
        self._house.heard(request, response)
        RUNNING.get().effect("call.answered")
        return response


def is_crash(error: BaseException) -> bool:
    """Whether this is a crash, or a group with one in it."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_crash(each) for each in error.exceptions)
    return isinstance(error, Crash)
