"""How the parts of the inference service are put together."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from undersong.services.inference.access import FileTokens
from undersong.services.inference.api.predictions import router
from undersong.services.inference.batching import Batcher, QueueLimits
from undersong.services.inference.domain.drift import DriftCounts
from undersong.services.inference.predictions import Predictions
from undersong.services.inference.serving import ServedVersion, load_version
from undersong.services.inference.settings import InferenceSettings
from undersong.shared.web.app import create_app


def start(settings: InferenceSettings) -> FastAPI:
    """Return the API of the verified version; nothing listens before, and no answer comes from a model unchecked."""
    tokens = None if settings.token_file is None else FileTokens.read(settings.token_file)
    return build_app(settings, load_version(settings), tokens)


def check(settings: InferenceSettings) -> None:
    """Verify the version of these settings, and say what it is."""
    found = load_version(settings)
    sys.stdout.write(
        f"version {found.evidence.id}, sha256 {found.evidence.content_digest}: {len(found.checks)} checks passed\n"
    )


def build_app(
    settings: InferenceSettings, version: ServedVersion | None = None, tokens: FileTokens | None = None
) -> FastAPI:
    """Return the API; without a version it only describes itself."""
    app = create_app(
        title="Undersong inference",
        service="inference",
        description="Predictions of one model version, whose evidence was verified before the service started.",
        routers=[router],
        lifespan=_lifespan(settings, version),
        json_limit=settings.max_body_bytes,
    )
    app.state.settings, app.state.open, app.state.tokens = settings, settings.open, tokens
    return app


def _lifespan(
    settings: InferenceSettings, version: ServedVersion | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if version is None:
            yield
            return
        limits = QueueLimits(settings.batch_rows, settings.queued_rows, settings.queued_requests)
        batcher = Batcher(version.predict, limits)
        drift = DriftCounts(version.bins, settings.drift_block_rows)
        async with batcher.running():
            app.state.predictions = Predictions(version, batcher, drift, settings.max_rows)
            yield

    return lifespan
