"""Every operation of every service, in every role and in none, with requests that schemathesis makes up.

No 5xx, no status that the OpenAPI file does not name, every refusal a problem document, no unknown caller let in. The
cases are the same at every run. `make fuzz` sends many more and prints how many.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.hostile.fuzzing import EXAMPLES, SENT, fuzz, load
from tests.hostile.stage import Stage, staged

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]
cases = settings(
    derandomize=True, database=None, deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("platform")) as made:
        yield made
    print("requests fuzzed:", dict(SENT))


@load("coordinator").parametrize()
@cases
def test_coordinator(case: Any, stage: Stage) -> None:
    fuzz(stage, "coordinator", case)


@load("aggregator").parametrize()
@cases
def test_aggregator(case: Any, stage: Stage) -> None:
    fuzz(stage, "aggregator", case)


@load("keys").parametrize()
@cases
def test_keys(case: Any, stage: Stage) -> None:
    fuzz(stage, "keys", case)


@load("registry").parametrize()
@cases
def test_registry(case: Any, stage: Stage) -> None:
    fuzz(stage, "registry", case)


@load("helper").parametrize()
@cases
def test_helper(case: Any, stage: Stage) -> None:
    fuzz(stage, "helper", case)
