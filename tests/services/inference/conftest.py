"""One trained version for every test of the service, and its API in this process."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.services.inference.versions import Trained
from undersong.services.inference.wiring import start

Ask = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture(scope="session")
def trained() -> Trained:
    return Trained()


@pytest.fixture
def ask(trained: Trained, tmp_path: Path) -> Ask:
    """Return a client of a running service with these settings."""

    @asynccontextmanager
    async def client(version: Trained = trained, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        app = start(version.settings(tmp_path, **settings))
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as found,
        ):
            yield found

    return client
