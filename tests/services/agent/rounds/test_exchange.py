"""Rounds with steps: agents against a real server engine, a real witness and a real log; kill -9 at every step."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.effort import also
from undersong.services.agent.loop import Agent
from undersong.services.agent.settings import load
from undersong.shared.secagg.pairwise import messages, roster
from undersong.shared.secagg.pairwise.complaints import unpack_complaints
from undersong.shared.secagg.pairwise.facts import STEPS
from undersong.shared.secagg.pairwise.messages import Survivors

pytestmark = pytest.mark.process

SITE = "site_test"
UPDATES = r"/v1/rounds/.*/updates"
RECORDS = "/v1/log/records"


def begin(platform, agent, *, sites=(SITE,), peers=3, add=0.5, **changes):
    version = platform.add_model([1.0, 2.0, 3.0, 4.0])
    params = {"add": add, **changes.pop("params", {})}
    return platform.begin_pairwise(agent.recipe, list(sites), peers=peers, model_ref=version, params=params, **changes)


def secrets_left(agent) -> int:
    with sqlite3.connect(agent.folder / "state" / "agent.sqlite") as db:
        counts = [
            db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("engine_secrets", "engine_messages")
        ]
    db.close()
    return sum(counts)


def said(party, step, site=SITE) -> set[bytes]:
    return {message for at, who, message in party.heard if (at, who) == (step, site)}


def test_four_agents_in_one_process_open_the_sum_and_hold_its_receipts(platform, make_agent) -> None:
    """No update is opened, the mean is right, every site can prove that its update is in it."""
    sites = [f"site_{letter}" for letter in "abcd"]
    agents = [make_agent(site=site) for site in sites]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def others_end():
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=60)

    async def serve(agent):
        await Agent(load(agent.folder / "agent.yaml")).run()

    running = [asyncio.run_coroutine_threadsafe(serve(agent), loop) for agent in agents]
    try:
        platform.wait(lambda: len(platform.profiles) == 4, 60)
        for number in (1, 2):
            party = begin(platform, agents[0], sites=sites, peers=0, number=number)
            platform.wait(lambda: len(platform.ended) == 4 * party.manifest.number, 60)  # noqa: B023 (waited for here)
            np.testing.assert_allclose(party.total.mean, 0.5, atol=1e-4)
        platform.wait(lambda: sum(path == RECORDS for _, path in platform.requests) >= 4)
        for agent in agents:
            platform.wait(lambda: [item["state"] for item in agent.receipts()] == ["verified"] * 2)  # noqa: B023
            assert secrets_left(agent) == 0
    finally:
        for future in running:
            future.cancel()
        asyncio.run_coroutine_threadsafe(others_end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert all(end.startswith("completions:") for end, _ in platform.ended)


def test_a_lost_site_ends_its_task_and_the_others_go_on(platform, agent) -> None:
    """A peer drops out after its shares: the sum of the others is exact. This site drops out: it says so and erases."""
    agent.start()
    party = begin(platform, agent, peers=4)
    party.lost["upload"] = {"site_peer0"}
    platform.wait(lambda: platform.ended, 60)
    expected = np.mean([0.5, *(0.25 * n for n in (2, 3, 4))])
    np.testing.assert_allclose(party.total.mean, expected, atol=1e-4)
    second = begin(platform, agent, peers=4, number=2)
    second.lost["upload"] = {SITE}
    platform.wait(lambda: len(platform.ended) == 2)
    assert platform.ended[1][1]["code"] == "site-fell-out"
    platform.wait(lambda: platform.requests[-1][1].startswith(("/v1/tasks/leases", RECORDS)))
    assert (agent.rows()[1][1], agent.outbox(), secrets_left(agent)) == ("late", {}, 0)


def test_falling_out_after_the_survivors_were_fixed_still_counts(platform, agent) -> None:
    """The update is in the sum, so the task is done and its receipt verified; nothing was opened by this site."""
    agent.start(alone=True)
    party = begin(platform, agent, peers=4)
    party.lost["commit"] = {SITE}
    platform.wait(lambda: platform.ended, 60)
    assert platform.ended[0][0].startswith("completions:")
    np.testing.assert_allclose(party.total.mean, np.mean([0.5, 0.25, 0.5, 0.75, 1.0]), atol=1e-4)
    assert said(party, "unmask") == set()
    platform.wait(lambda: any(path == RECORDS for _, path in platform.requests))
    platform.wait(lambda: [item["state"] for item in agent.receipts()] == ["verified"])
    shown = subprocess.run(agent.command("receipts", "--json"), capture_output=True, text=True, check=True).stdout
    assert json.loads(shown)["items"] == agent.receipts()
    assert secrets_left(agent) == 0
    if sys.platform == "linux":
        loaded = Path(f"/proc/{agent.process.pid}/maps").read_text()
        assert [name for name in ("llvmlite", "/scipy/") if name in loaded] == [], "what is loaded once stays in memory"
        assert "/numpy/" in loaded


@pytest.mark.parametrize(
    ("step", "heard"), [("share", True), *also(("advertise", False), ("upload", False), ("unmask", True))]
)
def test_killed_after_storing_a_message_it_sends_the_same_bytes(platform, agent, refuse, step, heard) -> None:
    """Whether or not the aggregator had the message: after kill -9 the round goes on with the stored one."""
    path = UPDATES if step == "upload" else rf"/v1/rounds/.*/steps/{step}"
    fault = "drop" if heard else refuse(503, "unavailable", **{"retry-after": "60"})
    platform.faults += [("PUT", path, fault)] + [("PUT", path, refuse(503, "unavailable", **{"retry-after": "60"}))] * 5
    party = begin(platform, agent)
    agent.start()
    needed = 2 if heard else 1
    suffix = "/updates" if step == "upload" else f"/steps/{step}"
    platform.wait(lambda: sum(path.endswith(suffix) for _, path in platform.requests) >= needed, 60)
    agent.kill()
    platform.faults.clear()
    if step in ("advertise", "share"):
        platform.offer(party.manifest, site=SITE)
    agent.start()
    platform.wait(lambda: platform.ended, 60)
    assert platform.ended[0][0].startswith("completions:"), platform.ended
    if step == "upload":
        assert len(set(platform.bodies[party.manifest.round_id])) == 1
    assert all(len(said(party, each)) == 1 for each in STEPS if each != "upload")
    np.testing.assert_allclose(party.total.mean, np.mean([0.5, 0.25, 0.5, 0.75]), atol=1e-4)
    platform.wait(lambda: platform.requests[-1][1].startswith(("/v1/tasks/leases", RECORDS)))


@pytest.mark.exhaustive
def test_killed_after_the_last_step_it_completes(platform, agent, refuse) -> None:
    """The secrets are gone already; what is left is to tell the coordinator."""
    platform.faults += [
        ("POST", r"/v1/tasks/leases#completed", refuse(503, "unavailable", **{"retry-after": "60"}))
    ] * 5
    party = begin(platform, agent)
    agent.start()
    platform.wait(lambda: any(path.endswith("#completed") for _, path in platform.requests), 60)
    assert (agent.rows()[0][1], secrets_left(agent)) == ("answered", 0)
    agent.kill()
    platform.faults.clear()
    platform.offer(party.manifest, site=SITE)  # the coordinator hands the live lease out again
    agent.start()
    platform.wait(lambda: platform.ended, 60)
    assert len(said(party, "unmask")) == len(platform.bodies[party.manifest.round_id]) == 1
    platform.wait(lambda: any(path == RECORDS for _, path in platform.requests))
    assert agent.rows()[0][1] == "answered"


def other_survivors(platform, party):
    """Another survivor set than the one that was committed to, truly signed: what two colluding services could do."""

    def bend(answers):
        first, *rest = messages.unpack_list(answers[SITE])
        shown = Survivors.unpack(first)
        everyone = bytes([0b11111])
        fewer = bytes([everyone[0] & ~(1 << party.roster.position("site_peer0"))])
        assert shown.members != fewer
        ctx = roster.Frame.of(party.roster, roster_terms(platform, party)).ctx
        statement = roster.survivors_statement(ctx, party.manifest.attempt, fewer, shown.root)
        signed = Survivors(fewer, shown.root, platform.keys.private_key.sign(statement))
        return {**answers, SITE: messages.pack_list([signed.pack(), *rest])}

    return bend


def roster_terms(platform, party):
    from undersong.shared.secagg.pairwise.engine import terms

    return terms(party.manifest, platform.witness_key)


def test_a_second_survivor_set_is_refused(platform, agent) -> None:
    """After committing to one set, this site opens no other, even with the witness's signature."""
    party = begin(platform, agent, peers=4)
    party.bend["commit"] = other_survivors(platform, party)
    agent.start()
    platform.wait(lambda: platform.ended, 60)
    assert platform.ended[0][1]["code"] == "round-aborted"
    assert said(party, "unmask") == set()
    platform.wait(lambda: platform.requests[-1][1].endswith("/leases"))
    assert secrets_left(agent) == 0
    platform.offer(party.manifest, site=SITE)
    platform.wait(lambda: len(platform.ended) == 2)
    assert platform.ended[1][1]["code"] in ("round-aborted", "round-closed")


def test_heartbeats_go_on_in_every_step_and_an_abort_erases(platform, agent) -> None:
    """The platform sees the step in which a site waits, and can end it there; nothing of the round is left."""
    party = begin(platform, agent)
    party.held = {"share", "commit"}
    agent.start()
    platform.wait(lambda: "agreeing" in {beat["phase"] for beat in platform.beats}, 60)
    party.held = {"commit"}
    platform.wait(lambda: "unmask" in {beat["phase"] for beat in platform.beats})
    assert secrets_left(agent) > 0
    platform.desired = {"state": "abort", "reason": "cancelled", "lease_s": 30}
    platform.wait(lambda: platform.requests[-1][1].endswith("/leases"))
    assert (agent.rows()[0][1], agent.outbox(), secrets_left(agent)) == ("late", {}, 0)
    assert (platform.ended, said(party, "unmask")) == ([], set())


def test_one_round_of_a_job_is_opened_once_over_all_attempts(platform, agent) -> None:
    """A second attempt at an opened round is refused before anything is said; an attempt that never opened is not."""
    party = begin(platform, agent)
    party.lost["commit"] = {SITE}
    agent.start()
    platform.wait(lambda: platform.ended, 60)
    job = party.manifest.job_id
    again = begin(platform, agent, job_id=job, attempt=2)
    platform.wait(lambda: len(platform.ended) == 2)
    assert platform.ended[1][0].startswith("completions:")
    third = begin(platform, agent, job_id=job, attempt=3)
    platform.wait(lambda: len(platform.ended) == 3)
    assert platform.ended[2][1]["code"] == "round-answered"
    assert said(again, "advertise") != said(party, "advertise")
    assert third.heard == []
    stale = begin(platform, agent, job_id=job, number=2, epoch=3)
    platform.wait(lambda: len(platform.ended) == 4)
    assert stale.total is not None
    begin(platform, agent, job_id=job, number=3, epoch=2)
    platform.wait(lambda: len(platform.ended) == 5)
    assert platform.ended[4][1]["code"] == "epoch-stale"


def test_a_record_that_does_not_hold_is_said_loudly(platform, agent) -> None:
    """Another body under this site's name: `receipt.mismatch` in the log, in `status`, and exit code 1."""
    party = begin(platform, agent)
    agent.start()
    platform.faults.append(("GET", RECORDS, (503, None, {})))
    platform.wait(lambda: party.logged is not None, 60)
    record = party.logged.record
    bodies = {**record.bodies, SITE: "2" * 64}
    party.logged = party.logged.model_copy(update={"record": record.model_copy(update={"bodies": bodies})})
    platform.wait(lambda: platform.ended)
    platform.wait(lambda: sum(path == RECORDS for _, path in platform.requests) >= 2)
    platform.wait(lambda: agent.events("receipt.mismatch"))
    status = json.loads(subprocess.run(agent.command("status"), capture_output=True, text=True, check=True).stdout)
    assert status["mismatches"][0]["round_id"] == party.manifest.round_id
    assert len(status["warnings"]) == 2
    done = subprocess.run(agent.command("receipts"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[:1]) == (1, ["mismatch"]), done.stderr


def test_a_witness_key_of_a_stranger_and_a_bent_roster_end_the_task(platform, agent) -> None:
    """A roster that keys did not sign is refused by name before a share leaves."""
    party = begin(platform, agent)

    def bend(answers):
        bent = replace(roster.Roster.unpack(answers[SITE]), signature=os.urandom(64))
        return {**answers, SITE: bent.pack()}

    party.bend["advertise"] = bend
    agent.start()
    platform.wait(lambda: platform.ended, 60)
    assert platform.ended[0][1]["code"] == "round-aborted"
    assert said(party, "share") == set()


def test_a_site_that_cannot_open_an_envelope_complains_and_takes_part(platform, agent) -> None:
    """One dealer's envelope is noise: the round goes on, with that dealer, and the sum is exact."""
    party = begin(platform, agent)

    def bend(answers):
        delivery, dealt = messages.unpack_list(answers[SITE])
        found = messages.Delivery.unpack(delivery)
        noise = os.urandom(messages.ENVELOPE_BYTES) + found.envelopes[messages.ENVELOPE_BYTES :]
        return {**answers, SITE: messages.pack_list([replace(found, envelopes=noise).pack(), dealt])}

    party.bend["share"] = bend
    party.faults = {SITE: "wrong-share"}
    agent.start()
    platform.wait(lambda: platform.ended, 60)
    assert platform.ended[0][0].startswith("completions:"), platform.ended
    platform.wait(lambda: agent.events("site.at_fault"))
    told = agent.events("site.at_fault")
    assert told[0]["code"] == "wrong-share", "what the record says of this site is in its log"
    (message,) = said(party, "check")
    assert [complaint.what for complaint in unpack_complaints(message)] == ["envelope"]
    np.testing.assert_allclose(party.total.mean, np.mean([0.5, 0.25, 0.5, 0.75]), atol=1e-4)


def test_a_site_hears_who_cannot_use_the_shares_that_it_dealt(platform, agent) -> None:
    """Its envelope for one other site is noise: a warning in its log, by the round's record."""
    party = begin(platform, agent)
    victim = next(site for site in party.manifest.cohort if site != SITE)

    def bend(answers):
        delivery, dealt = messages.unpack_list(answers[victim])
        found = messages.Delivery.unpack(delivery)
        at = [site for site in party.manifest.cohort if site != victim].index(SITE) * messages.ENVELOPE_BYTES
        end = at + messages.ENVELOPE_BYTES
        bent = found.envelopes[:at] + os.urandom(messages.ENVELOPE_BYTES) + found.envelopes[end:]
        return {**answers, victim: messages.pack_list([replace(found, envelopes=bent).pack(), dealt])}

    party.bend["share"] = bend
    agent.start()
    platform.wait(lambda: platform.ended, 60)
    platform.wait(lambda: agent.events("site.shares_disputed"))
    told = agent.events("site.shares_disputed")
    assert [event["sites"] for event in told] == [[victim]]
    assert agent.events("site.at_fault") == []


def test_an_excluded_site_says_so_once_in_its_log_and_in_its_status(platform, agent) -> None:
    """After a round it asks whether the job goes on without it; kill -9 does not make it say so again."""
    gone = {"job_id": "job_1", "round_id": "rnd_1", "code": "dealer-at-fault", "message": "it dealt useless shares"}
    platform.exclusions = [{**gone, "site_id": SITE, "site_name": "x", "since": None}]
    agent.start()
    platform.wait(lambda: agent.events("site.excluded"))
    begin(platform, agent)
    platform.wait(lambda: platform.ended, 60)
    agent.kill()
    agent.start()
    asked = len([path for _, path in platform.requests if path.endswith("/exclusions")])
    platform.wait(lambda: len([path for _, path in platform.requests if path.endswith("/exclusions")]) > asked + 1)
    (told,) = agent.events("site.excluded")
    assert (told["code"], told["job_id"]) == ("dealer-at-fault", "job_1")
    status = json.loads(subprocess.run(agent.command("status"), capture_output=True, text=True, check=True).stdout)
    assert status["excluded"] == [gone]
    assert any("goes on without this site" in line for line in status["warnings"])
