"""Predictions, the model that makes them, and counts for drift."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from undersong.recipes.protocol import RecipeError
from undersong.recipes.rows import RowsInvalid
from undersong.services.inference.access import Permitted
from undersong.services.inference.batching import QueueFull
from undersong.services.inference.domain.rows import TooManyRows
from undersong.services.inference.predictions import PredictionNotFinite, Predictions
from undersong.services.inference.views import DriftReport, RowPredictions, RowsAsked, ServedModel
from undersong.shared.errors import Forbidden, Unauthenticated, Unavailable
from undersong.shared.web.access import TokenRefused
from undersong.shared.web.problems import problems

router = APIRouter(prefix="/v1", tags=["predictions"])
_REFUSED = (Unauthenticated, TokenRefused, Forbidden)


async def _predictions(request: Request) -> Predictions:
    found: Predictions | None = getattr(request.app.state, "predictions", None)
    if found is None:
        raise Unavailable("the service is starting", retry_after_s=1)
    return found


PredictionsUse = Annotated[Predictions, Depends(_predictions)]


@router.post(
    "/predictions",
    response_model_exclude_none=True,
    responses=problems(*_REFUSED, TooManyRows, RowsInvalid, PredictionNotFinite, RecipeError, QueueFull),
)
async def predict(_: Permitted, asked: RowsAsked, predictions: PredictionsUse) -> RowPredictions:
    """Return the model's prediction for each row, in order."""
    return RowPredictions.of(predictions.version, await predictions.predict(asked.rows))


@router.get("/model", response_model_exclude_none=True, responses=problems(*_REFUSED))
async def get_model(_: Permitted, predictions: PredictionsUse, request: Request) -> ServedModel:
    """Return the version that is served, the columns that it takes, and the checks that it passed."""
    return ServedModel.of(predictions.version, request.app.state.settings)


@router.get("/drift", responses=problems(*_REFUSED))
async def get_drift(_: Permitted, predictions: PredictionsUse) -> DriftReport:
    """Return counts of what was predicted since the start, by intervals and categories."""
    return DriftReport.of(predictions)
