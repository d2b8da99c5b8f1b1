"""How many proofs of norm equality a round of two servers asks for, and after how many updates a round ends."""

import pytest
from pydantic import ValidationError

from undersong.services.coordinator.domain.manifests import _plan_request, _target
from undersong.services.coordinator.domain.parts import CohortPart
from undersong.services.coordinator.domain.spec import JobSpec
from undersong.shared.secagg.engines import engine_facts
from undersong.shared.wire.manifest import RoundKind


def spec(engine: str = "twoserver", **update: object) -> JobSpec:
    document = {
        "federation_id": "fed_1",
        "name": "job",
        "model": {"name": "model"},
        "recipe": {"name": "tabular"},
        "data": {"dataset": "heart"},
        "rounds": 1,
        "engine": engine,
        "update": update,
    }
    return JobSpec.model_validate(document)


@pytest.mark.parametrize(
    ("size", "asked", "expected"), [(3, None, 2), (15, None, 2), (16, None, 1), (500, None, 1), (3, 1, 1), (500, 2, 2)]
)
def test_a_consortium_gets_two_unless_the_job_says_otherwise(size: int, asked: int | None, expected: int) -> None:
    def planned(kind: RoundKind, job: JobSpec) -> object:
        return engine_facts(job.engine).plan(_plan_request(kind, size, job)).get("norm_equality_proofs")

    assert planned(RoundKind.TRAIN, spec(norm_equality_proofs=asked)) == expected
    assert planned(RoundKind.STATISTICS, spec(norm_equality_proofs=asked)) is None
    assert planned(RoundKind.TRAIN, spec("pairwise")) is None


@pytest.mark.parametrize(
    ("size", "least", "enough", "target"), [(5, 3, None, 5), (5, 3, 4, 4), (5, 3, 9, 5), (3, 3, 3, 3), (4, 3, 3, 3)]
)
def test_a_round_ends_with_as_many_updates_as_are_enough_and_never_below_the_minimum(
    size: int, least: int, enough: int | None, target: int
) -> None:
    job = spec().model_copy(update={"cohort": CohortPart(min=least, enough=enough)})
    assert _target(size, job) == target


@pytest.mark.parametrize("asked", [0, 3, "2", 1.5])
def test_another_number_is_refused_where_the_job_is_read(asked: object) -> None:
    with pytest.raises(ValidationError):
        spec(norm_equality_proofs=asked)
