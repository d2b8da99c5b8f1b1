"""The drawing of a lineage: a row for each job, a line from each parent."""

from tests.services.coordinator.dashboard.models import make_version
from undersong.services.coordinator.dashboard.lineage import MOST, lineage


def test_versions_stand_in_order_in_the_row_of_their_job() -> None:
    drawn = lineage([make_version(number) for number in range(5)], {"champion": "ver_3"})
    assert [mark.x for mark in drawn.marks] == [3, 26.5, 50, 73.5, 97]
    assert len({mark.y for mark in drawn.marks[:3]}) == 1
    assert drawn.marks[3].y > drawn.marks[2].y
    assert [(line.x1, line.x2) for line in drawn.lines] == [(3, 26.5), (26.5, 50), (50, 73.5), (73.5, 97)]
    assert drawn.marks[3].aliases == ("champion",)


def test_the_newest_are_drawn() -> None:
    drawn = lineage([make_version(1).model_copy(update={"id": f"ver_{n}", "number": n}) for n in range(60)], {})
    assert (len(drawn.marks), drawn.left_out) == (MOST, 20)


def test_one_version_alone() -> None:
    assert len(lineage([make_version(0)], {}).marks) == 1
    assert lineage([], {}).marks == ()
