"""Sites that deal or send useless shares, on the real coordinator, aggregator and keys: the job goes on without them.

With and without processes that die at every few effects meanwhile.
"""

import os
from typing import Any

import pytest

from tests.effort import also
from tests.simulation.oneprocess.site import Site
from tests.simulation.test_model import Lifecycle, founding, life  # noqa: F401 (fixtures)
from undersong.shared.secagg.pairwise import client as client_module
from undersong.shared.secagg.pairwise import messages
from undersong.shared.secagg.pairwise.facts import CHECK, SHARE, UNMASK

DEATHS = {
    "none dies": (),
    "processes die": ("aggregator.worker", "coordinator.worker", "aggregator.api", "keys.api"),
}


def noise() -> bytes:
    return b"".join(os.urandom(7).ljust(8, b"\0") for _ in range(5))


class Cheat:
    """A client engine that cheats in one step."""

    def __init__(self, honest: Any, how: str) -> None:
        self.honest, self.how = honest, how

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)

    def message(self, client_round: Any, state: bytes, step: str, answer: bytes | None) -> tuple[bytes, bytes]:
        if step == SHARE and self.how == "deals noise":
            with pytest.MonkeyPatch.context() as patch:
                real = client_module.split
                patch.setattr(client_module, "split", lambda *given: [[noise(), noise()] for _ in real(*given)])
                return self.honest.message(client_round, state, step, answer)
        state, said = self.honest.message(client_round, state, step, answer)
        if step == SHARE and self.how == "seals noise":
            envelopes, dealing = messages.unpack_list(said)
            said = messages.pack_list([os.urandom(len(envelopes)), dealing])
        if step == UNMASK and self.how == "sends noise":
            opening = messages.OpeningShares.unpack(said)
            said = messages.OpeningShares(*(noise() * (len(part) // 40) for part in (opening.b, opening.s))).pack()
        if step == CHECK and self.how == "complains":
            said = b"\x91\x93\x00\xa8envelope\xc4\x40" + bytes(64)  # an unsigned complaint
        return state, said


def played(machine: Lifecycle, how: str, deaths: tuple[str, ...]) -> Site:
    """The job from its submission to its end, with one cheat among the sites."""
    cheat = machine.platform.sites[1]
    cheat.engine = Cheat(cheat.engine, how)  # type: ignore[assignment]
    machine.submit()
    for turn in range(40 if deaths else 0):
        death = (deaths[turn % len(deaths)], 1 + turn % 7)
        machine.dying(death, machine.everybody())
        machine.dying(death, machine.platform.sweep_aggregator())
        machine.dying(death, machine.platform.sweep_coordinator())
        machine.do(machine.platform.pass_time(2.0, machine.platform.sites))
    machine.finish()
    machine.check()
    machine.each_published_sum_is_of_its_contributors()
    return cheat


@pytest.mark.parametrize(
    ("how", "deaths"),
    [("seals noise", "none dies"), ("deals noise", "processes die"), *also(("deals noise", "none dies"))],
)
def test_a_cheating_dealer_is_excluded_and_the_job_succeeds(life: type[Lifecycle], how: str, deaths: str) -> None:  # noqa: F811
    """One that is found out before masks costs nothing; one that is found out at the opening costs one number."""
    machine = life()
    try:
        cheat = played(machine, how, DEATHS[deaths])
        platform = machine.platform
        assert [state for (state,) in platform.rows("coordinator", "SELECT state FROM jobs")] == ["succeeded"]
        faults = platform.rows("aggregator", "SELECT DISTINCT site_id, code FROM faults")
        assert faults == [(cheat.id, "dealer-at-fault")], "no other site is named"
        excluded = platform.rows("coordinator", "SELECT DISTINCT site_id FROM tasks WHERE code = 'dealer-at-fault'")
        assert excluded == [(cheat.id,)]
        for version in platform.registry.published():
            rows = platform.rows(
                "aggregator", "SELECT site_id FROM contributions WHERE round_id = ?", version["lineage"]["round_id"]
            )
            assert (cheat.id,) not in rows
        last = platform.rows("coordinator", "SELECT cohort FROM rounds ORDER BY created_at DESC LIMIT 1")[0][0]
        assert cheat.id not in last
        if deaths == "none dies":
            rounds = platform.rows("coordinator", "SELECT phase, reason FROM rounds ORDER BY created_at")
            lost = [("failed", "dealer-at-fault")] if how == "deals noise" else []
            assert rounds == [*lost, ("published", None), ("published", None)]
            numbers = platform.rows("coordinator", "SELECT json_extract(manifest, '$.manifest.number') FROM rounds")
            assert len(set(numbers)) == len(numbers), "no number is asked twice"
    finally:
        machine.close()


@pytest.mark.parametrize("how", ["sends noise", *also("complains")])
def test_other_cheats_stop_nobody_and_exclude_nobody(life: type[Lifecycle], how: str) -> None:  # noqa: F811
    machine = life()
    try:
        cheat = played(machine, how, ())
        platform = machine.platform
        assert [state for (state,) in platform.rows("coordinator", "SELECT state FROM jobs")] == ["succeeded"]
        faults = platform.rows("aggregator", "SELECT DISTINCT site_id, code FROM faults")
        assert faults == ([(cheat.id, "wrong-share")] if how == "sends noise" else [])
        assert platform.rows("coordinator", "SELECT id FROM tasks WHERE code = 'dealer-at-fault'") == []
        assert len(platform.registry.published()) == 2
    finally:
        machine.close()
