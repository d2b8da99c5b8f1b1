"""The two servers of a report and the sizes that everybody knows; no kernels, so that evidence can be read anywhere."""

from typing import Final

LEADER: Final = 0
HELPER: Final = 1
ROLES: Final = (b"leader", b"helper")
NONCE_BYTES: Final = 16
Share = bytes | memoryview
