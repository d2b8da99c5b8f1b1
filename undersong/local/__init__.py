"""The embedded platform: all services and agents as real processes of this machine."""

from undersong.local.platform import Platform
from undersong.local.process import Supervised

__all__ = ["Platform", "Supervised"]
