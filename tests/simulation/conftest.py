"""The aggregator's stage, for attacks on it."""

from tests.services.aggregator.conftest import make_identity, quick_stage

__all__ = ["make_identity", "quick_stage"]
