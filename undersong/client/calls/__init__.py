"""Every request that the client can make, as a value, by area."""

from undersong.client.calls.call import Call

__all__ = ["Call"]
