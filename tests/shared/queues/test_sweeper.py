from tests.shared.queues.hearing import until
from undersong.shared.queues import Sweeper, background


async def test_the_sweeper_goes_on_after_a_job_that_fails() -> None:
    runs: list[str] = []

    async def broken() -> int:
        runs.append("broken")
        raise RuntimeError("broke")

    async def sound() -> int:
        runs.append("sound")
        return 1

    async with background(Sweeper(0.02, {"broken": broken, "sound": sound}).run()):
        await until(lambda: runs.count("sound") >= 2)
    assert runs[:4] == ["broken", "sound", "broken", "sound"]
