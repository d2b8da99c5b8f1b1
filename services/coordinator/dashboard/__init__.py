"""The dashboard: pages over the coordinator's use cases, served at /dashboard with its own static files."""

from services.coordinator.dashboard.desk import Dashboard
from services.coordinator.dashboard.pages import router

__all__ = ["Dashboard", "router"]
