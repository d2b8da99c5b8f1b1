"""What services say about themselves."""

from typing import Any

from undersong.client.types.base import Answer


class Authority(Answer):
    """The federation's certificate authority."""

    certificate_pem: str
    fingerprint: str


class Health(Answer):
    """What a service says about itself at /health/ready."""

    ready: bool
    status_code: int
    document: dict[str, Any]
