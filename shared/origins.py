"""Origins of web addresses (RFC 6454): scheme, host and port."""

from typing import Final
from urllib.parse import urlsplit

_USUAL: Final = {"http": 80, "https": 443}
_HERE: Final = ("127.0.0.1", "localhost", "::1")


def origin_of(url: str) -> str:
    """Return scheme, host and port, the scheme's usual port left out; raises ValueError for no http or https
    address.
    """
    parts = urlsplit(url)
    if parts.scheme not in _USUAL or not parts.hostname:
        raise ValueError(f"{url!r} is no http or https address")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if parts.port in (None, _USUAL[parts.scheme]) else f":{parts.port}")


def is_protected(url: str) -> bool:
    """Return whether what is sent to an address stays secret on the way: https, or http on this machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _HERE))
