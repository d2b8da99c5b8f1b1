"""The dashboard: pages over the coordinator's use cases, served at /dashboard with its own static files."""

from undersong.services.coordinator.dashboard.pages import router
from undersong.services.coordinator.dashboard.view_model import Dashboard

__all__ = ["Dashboard", "router"]
