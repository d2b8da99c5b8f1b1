"""The Python client: `Client` for ordinary programs, `AsyncClient` for asyncio; both answer typed values."""

from undersong.client.aio.client import AsyncClient
from undersong.client.offline import load_file
from undersong.client.sync.client import Client
from undersong.errors import ApiError, RowsError, UndersongError, UnreachableError
from undersong.profile import Profile, load_profile

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "Profile",
    "RowsError",
    "UndersongError",
    "UnreachableError",
    "load_file",
    "load_profile",
]
