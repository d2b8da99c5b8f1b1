"""One compose project for every test of the containers."""

from collections.abc import Iterator

import pytest

from tests.e2e.containers import BUILD_S, ROOT, START_S, Compose, lend_wheels


@pytest.fixture(scope="session")
def compose() -> Iterator[Compose]:
    """The whole platform with four hospitals; removed with everything it made."""
    project = Compose()
    lent = lend_wheels()
    if list((ROOT / "deploy" / "wheels").glob("torch-*+cpu-*.whl")):
        project.env["UNDERSONG_TORCH"] = "cpu"
    try:
        project("build", timeout_s=BUILD_S)
        project("up", "--detach", "--no-build", timeout_s=START_S)
        yield project
    finally:
        for wheel in lent:
            wheel.unlink(missing_ok=True)
        print(project("logs", "--no-color", "--tail", "40")[-20_000:])  # shown only when something failed
        project("down", "--volumes", "--timeout", "5", timeout_s=180)
