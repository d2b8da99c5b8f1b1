"""Every operation of every service, in every role and in none, with requests that schemathesis makes up.

No 5xx, no status that the OpenAPI file does not name, every refusal a problem document, no unknown caller let in. The
cases are the same at every run. `make fuzz` sends many more and prints how many.
"""

import json
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.python._constants.orchestrator import make_constants_value_source

from tests.effort import also
from tests.hostile.fuzzing import EXAMPLES, OPENAPI, SENT, fuzz, load
from tests.hostile.stage import SERVICES, Stage, staged
from undersong.local.forks import Forks

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]
METHODS: Final = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}
cases = settings(
    derandomize=True, database=None, deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("platform"), forks) as made:
        yield made
    print("requests fuzzed:", dict(SENT))


def operations(service: str) -> list[str]:
    """Return "METHOD path" of each operation, from the published document."""
    paths = json.loads((OPENAPI / f"{service}.json").read_text())["paths"]
    return [f"{method.upper()} {path}" for path, found in paths.items() for method in found if method in METHODS]


def tried(service: str, label: str) -> list[Any]:
    """Return the case of an operation: five of six, by their names, are left to `make test-all`."""
    return also((service, label)) if zlib.crc32(label.encode()) % 6 else [(service, label)]


@cache
def described(service: str) -> tuple[Any, dict[str, Any], FeedbackSources]:
    """Return the schema, its operations by "METHOD path", and what cases of one operation teach those of another."""
    schema = load(service)
    found = {made.label: made for made in (result.ok() for result in schema.get_all_operations())}
    return schema, found, FeedbackSources(constants_value_source=make_constants_value_source(schema))


@pytest.mark.parametrize(
    ("service", "operation"),
    [each for service in SERVICES for label in operations(service) for each in tried(service, label)],
)
def test_every_operation(service: str, operation: str, stage: Stage) -> None:
    """The requests are made up here: `schema.parametrize()` makes them at collection, six seconds for each worker."""
    schema, found, feedback = described(service)

    def one(case: Any) -> None:
        fuzz(stage, service, case)

    build_operation_test(
        config=schema.config,
        operation=found[operation],
        test_func=one,
        given_kwargs={},
        feedback=feedback,
        explicit_settings=cases,
    )()
