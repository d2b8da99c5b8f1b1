"""The dashboard: pages over the coordinator's use cases, served at /dashboard with its own static files."""

from services.coordinator.dashboard.pages import router
from services.coordinator.dashboard.view_model import Dashboard

__all__ = ["Dashboard", "router"]
