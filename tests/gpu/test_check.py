"""The check of GPUs, run on the CPU: the script works, and a recipe that learns something else would be noticed."""

import pytest

from tests.gpu import check


def test_without_a_gpu_it_says_that_it_did_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    if check.gpus():
        pytest.skip("there is a GPU: python -m tests.gpu.check compares it")
    assert check.main([]) == 0
    assert capsys.readouterr().out.startswith("not run: PyTorch finds no GPU here")


@pytest.mark.process
@pytest.mark.exhaustive
async def test_all_recipes_agree_with_themselves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await check.check("cpu", None)
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("[")]  # which are log lines
    assert len(lines) == 4 * len(check.CASES)
    assert all(line.endswith("ok") for line in lines)
    monkeypatch.setitem(check.TOLERANCE, "bfloat16", 0.0)
    assert not await check.check("cpu", None, check.CASES[:1]), "bfloat16 is not float32"
