"""What is wrong with a set-up, and how to fix it: one `Finding` for each thing looked at."""

from undersong.doctor.agent import examine_agent
from undersong.doctor.findings import Finding
from undersong.doctor.home import examine_home
from undersong.doctor.machine import examine_machine
from undersong.doctor.services import examine_platform

__all__ = ["Finding", "examine_agent", "examine_home", "examine_machine", "examine_platform"]
