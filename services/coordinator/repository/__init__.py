"""All SQL of the coordinator, a module per noun. Rows stay inside; frozen values come out.

Locks are taken in one order, so that transactions wait for each other and do not deadlock: site, round, task, job.
"""

from undersong.shared.errors import Conflict


class Overtaken(Conflict):
    """Another request changed it in between; ask again."""
