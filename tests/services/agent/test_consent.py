"""The owner's inbox: what runs only after owners approved it, and no longer once they took that back."""

import itertools
import json
import math
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.services.agent.conftest import AgentProcess
from tests.services.agent.domain.test_rules import CODE, MANIFEST, POLICY, changed
from tests.services.agent.fake_platform import FakePlatform
from undersong.cli import app
from undersong.services.agent.consent.inbox import Inbox, NotDecided
from undersong.services.agent.consent.requests import approves, changes, fields_of, request_of
from undersong.services.agent.consent.rules import ConsentState, Decision, Ended, SignedDecision, standing
from undersong.services.agent.domain.budgets import Budget, PrivacyRule
from undersong.services.agent.domain.rules import Ceiling, ConsentRule, TaskFailure
from undersong.services.agent.policy.owners import OwnerMark
from undersong.services.agent.repository.store import Store
from undersong.services.agent.settings import OwnerSettings
from undersong.shared.identity.owner import OwnerKey, sign_policy
from undersong.shared.wire.manifest import RoundManifest
from undersong.shared.wire.privacy import PrivacyUnit

ALICE, BOB, EVE = (OwnerKey.generate() for _ in range(3))
NOISE = {"model": "local", "unit": "site", "noise_multiplier": 1.0, "delta": 1e-6, "epsilon": 5.0, "rounds": 3}
TERMS = {**NOISE, "min_sites": 3}
ASKED = replace(POLICY, consent=ConsentRule(asked=True))
JOB = {
    "name": "heart",
    "requester": "mara",
    "reason": "Which patients come back?",
    "planned": [{"kind": "train", "rounds": 3, "clip_norm": 1.0}, {"kind": "evaluate", "rounds": 1}],
    "columns": ["age", "sick"],
}
ROUND = changed(request=JOB)


def numbered(number: int, **fields: Any) -> RoundManifest:
    return changed(**{"request": JOB, "number": number, "round_id": f"rnd_{number}", **fields})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def inbox_of(folder: Path, need: int = 1) -> Inbox:
    owners = OwnerSettings(keys=[ALICE.public, BOB.public], need=need)
    return Inbox(Store(folder / "state"), owners, OwnerMark(folder / "mark"))


def refused(inbox: Inbox, manifest: RoundManifest, code: str) -> None:
    with pytest.raises(TaskFailure) as failure:
        inbox.check(ASKED, manifest)
    assert failure.value.code == code, failure.value


def test_a_round_waits_until_enough_owners_approve_and_ends_with_its_runs(folder: Path) -> None:
    inbox = inbox_of(folder, need=2)
    inbox.check(POLICY, ROUND)
    assert inbox.entries() == [], "a policy without consent asks no owner"
    refused(inbox, ROUND, "consent-waiting")
    (entry,) = inbox.entries()
    assert [note.state for note in inbox.notes(ASKED)] == ["waiting"]
    assert inbox.decide(entry.digest, ALICE, "approve").standing.state is ConsentState.ASKED
    inbox.decide(entry.digest, ALICE, "approve")
    refused(inbox, ROUND, "consent-waiting")
    with pytest.raises(NotDecided, match="not among the owners"):
        inbox.decide(entry.digest, EVE, "approve")
    inbox.decide(entry.digest, BOB, "approve", runs=2)
    assert inbox.notes(ASKED) == ()
    for number in (1, 1, 2, 1):
        inbox.check(ASKED, numbered(number, attempt=number))
    refused(inbox, numbered(3), "consent-waiting")
    inbox.check(ASKED, numbered(2))  # once more what was run
    found = inbox.entry(entry.digest).standing
    assert (found.state, found.runs_left) == (ConsentState.USED_UP, 0)
    inbox.decide(entry.digest, BOB, "approve", runs=1)
    inbox.check(ASKED, numbered(3))
    refused(inbox, numbered(4), "consent-waiting")


def test_runs_for_rounds_with_noise_are_not_spent_on_exact_answers(folder: Path) -> None:
    inbox = inbox_of(folder)
    job = {**JOB, "planned": [{**JOB["planned"][0], "privacy": TERMS}, JOB["planned"][1]]}

    def exact(number: int) -> RoundManifest:
        return numbered(number, request=job, kind="evaluate")

    refused(inbox, exact(1), "consent-waiting")
    (entry,) = inbox.entries()
    inbox.decide(entry.digest, ALICE, "approve")
    inbox.check(ASKED, exact(1))
    inbox.check(ASKED, exact(1))
    refused(inbox, exact(2), "consent-waiting")
    inbox.check(ASKED, numbered(3, request=job, privacy=TERMS))
    inbox.decide(entry.digest, ALICE, "approve", runs=2)
    refused(inbox, exact(4), "consent-waiting")
    inbox.decide(entry.digest, ALICE, "approve", runs=3)
    inbox.check(ASKED, exact(4))
    refused(inbox, exact(5), "consent-waiting")


def test_a_round_that_names_no_column_reads_all_and_is_not_what_was_asked(folder: Path) -> None:
    inbox, everything = inbox_of(folder), {"data": {"dataset": "heart", "label": "sick"}}
    refused(inbox, changed(request=JOB, **everything), "manifest-request")
    named = request_of(ROUND)
    assert named is not None
    assert fields_of(named)["columns"] == ["age", "sick"]
    unnamed = request_of(changed(request={**JOB, "columns": ["sick"]}, **everything))
    assert unnamed is not None
    assert "names none" in fields_of(unnamed)["columns"]


def test_a_revocation_holds_for_the_next_round(folder: Path) -> None:
    inbox = inbox_of(folder)
    refused(inbox, ROUND, "consent-waiting")
    (entry,) = inbox.entries()
    with pytest.raises(NotDecided, match="nothing is approved"):
        inbox.decide(entry.digest, ALICE, "revoke")
    inbox.decide(entry.digest, ALICE, "approve")
    inbox.check(ASKED, numbered(1))
    inbox.decide(entry.digest, BOB, "revoke")
    refused(inbox, numbered(2), "consent-denied")
    refused(inbox, numbered(1), "consent-denied")
    assert [note.state for note in inbox.notes(ASKED)] == ["denied"]
    inbox.decide(entry.digest, ALICE, "approve")
    inbox.check(ASKED, numbered(2))
    inbox.decide(entry.digest, ALICE, "deny")
    refused(inbox, numbered(3), "consent-denied")


def test_an_approval_ends_with_its_time_also_when_the_clock_is_moved_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, now = inbox_of(folder), time.time()
    refused(inbox, ROUND, "consent-waiting")
    (entry,) = inbox.entries()
    with pytest.raises(NotDecided, match="passed already"):
        inbox.decide(entry.digest, ALICE, "approve", until_ms=int(now * 1000) - 1)
    inbox.decide(entry.digest, ALICE, "approve", until_ms=int(now * 1000) + 60_000)
    inbox.check(ASKED, numbered(1))
    monkeypatch.setattr(time, "time", lambda: now + 61)
    refused(inbox, numbered(2), "consent-waiting")
    monkeypatch.setattr(time, "time", lambda: now)
    refused(inbox, numbered(2), "consent-waiting")
    assert inbox.entry(entry.digest).standing.state is ConsentState.EXPIRED


def test_an_earlier_copy_of_the_state_takes_nothing_back(folder: Path) -> None:
    """Runs stay used and what was revoked stays revoked, although the database forgot both."""
    import shutil

    inbox = inbox_of(folder)
    refused(inbox, ROUND, "consent-waiting")
    (entry,) = inbox.entries()
    inbox.decide(entry.digest, ALICE, "approve", runs=2)
    inbox.store.close()
    shutil.copytree(folder / "state", folder / "copy")
    inbox = inbox_of(folder)
    inbox.check(ASKED, numbered(1))
    inbox.check(ASKED, numbered(2))
    inbox.store.close()
    shutil.rmtree(folder / "state")
    shutil.copytree(folder / "copy", folder / "state")
    inbox = inbox_of(folder)
    refused(inbox, numbered(3), "consent-waiting")
    inbox.decide(entry.digest, ALICE, "approve", runs=5)
    inbox.decide(entry.digest, ALICE, "revoke")
    inbox.store.close()
    shutil.rmtree(folder / "state")
    shutil.copytree(folder / "copy", folder / "state")
    refused(inbox_of(folder), numbered(3), "consent-denied")


def test_no_signature_but_an_owners_counts(folder: Path) -> None:
    """As a coordinator, a recipe or a person with the database could forge them: none of it approves anything."""
    inbox = inbox_of(folder)
    refused(inbox, ROUND, "consent-waiting")
    (entry,) = inbox.entries()
    good = Decision(decision="approve", request=entry.digest, number=1, at_ms=1, key=ALICE.public)
    other = Decision(decision="approve", request="0" * 64, number=1, at_ms=1, key=ALICE.public)
    genuine = SignedDecision.by(ALICE, other)
    forged = [
        SignedDecision.by(EVE, good.model_copy(update={"key": EVE.public})),  # by no owner
        SignedDecision.by(EVE, good),  # in an owner's name
        genuine.model_copy(update={"document": good}),  # of another request
        SignedDecision(document=good, signature=genuine.signature),
    ]
    denial = SignedDecision.by(ALICE, Decision(**{**good.model_dump(), "decision": "deny", "number": 2}))
    forged.append(denial.model_copy(update={"document": denial.document.model_copy(update={"decision": "approve"})}))
    for number, each in enumerate(forged, 1):
        with inbox.store.writing() as db:
            row = (entry.digest, number, each.document.key, each.model_dump_json())
            db.execute("INSERT INTO consent_decisions VALUES (?, ?, ?, ?)", row)
        refused(inbox, ROUND, "consent-waiting")
        assert inbox.entry(entry.digest).decisions == ()
    signed = sign_policy_of(ALICE, entry.digest)
    inbox.keep(SignedDecision(document=good.model_copy(update={"number": 9}), signature=signed))
    refused(inbox, ROUND, "consent-waiting")
    inbox.keep(SignedDecision.by(ALICE, good.model_copy(update={"number": 10})))
    inbox.check(ASKED, ROUND)


def sign_policy_of(key: OwnerKey, digest: str) -> Any:
    """A signature over the same digest for another purpose."""
    from undersong.shared.identity.owner import POLICY_CONTEXT

    return key.sign(POLICY_CONTEXT, digest)


@pytest.mark.parametrize(
    "fields",
    [
        {"request": None},
        {"request": {**JOB, "planned": JOB["planned"][1:]}},
        {"request": {**JOB, "columns": ["age"]}},
        {"request": {**JOB, "planned": [{"kind": "train", "rounds": 3, "clip_norm": 0.5}]}},
        {"request": {**JOB, "planned": [{"kind": "train", "rounds": 3, "privacy": TERMS}]}},
        {"privacy": TERMS},
    ],
)
def test_a_round_that_is_not_what_its_request_says_is_refused(folder: Path, fields: dict[str, Any]) -> None:
    refused(inbox_of(folder), changed(**{"request": JOB, **fields}), "manifest-request")


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"recipe": {"name": "tabular", "digest": CODE, "params": {"epochs": 9}}}, {"parameters"}),
        ({"request": {**JOB, "reason": "Another."}}, {"reason"}),
        ({"request": {**JOB, "requester": "eve"}}, {"requester"}),
        ({"min_cohort": 2}, {"fewest sites in a sum"}),
        ({"job_id": "job_2"}, {"job id"}),
        ({"strategy": {"name": "fedadam"}}, {"strategy"}),
        ({"request": {**JOB, "planned": [{"kind": "train", "rounds": 4}]}}, {"rounds", "clip norm", "noise"}),
    ],
)
def test_an_approval_covers_no_other_request(folder: Path, fields: dict[str, Any], names: set[str]) -> None:
    """What differs is marked for the owner."""
    inbox = inbox_of(folder)
    refused(inbox, ROUND, "consent-waiting")
    inbox.decide(inbox.entries()[0].digest, ALICE, "approve")
    inbox.check(ASKED, ROUND)
    refused(inbox, changed(**{"request": JOB, **fields}), "consent-waiting")
    new = inbox.entries()[0]
    before = inbox.last_approved(new)
    assert before is not None
    assert set(changes(fields_of(before.request), fields_of(new.request))) == names


def test_what_stays_the_same_over_rounds_is_one_request() -> None:
    rounds = [
        numbered(2, attempt=3, seed=9, epoch=4, cohort=["site_a", "site_b", "site_d"]),
        numbered(3, kind="evaluate", encoding=replaced_clip()),
        numbered(4, model={"version_id": "ver_9", "digest": CODE}, context={"statistics": [1.0]}),
    ]
    first = request_of(ROUND)
    assert first is not None
    assert {request_of(each).digest() for each in rounds} == {first.digest()}  # type: ignore[union-attr]
    assert request_of(changed(kind="initialise", model=None, encoding=None)) is None


def replaced_clip() -> dict[str, Any]:
    return {**MANIFEST.encoding.model_dump(), "clip_norm": None}  # type: ignore[union-attr]


def ceiling(epsilon: float, *, delta: float = 1e-6, digest: str = CODE) -> ConsentRule:
    return ConsentRule(asked=True, ceilings={digest: Ceiling(epsilon, delta)})


def test_a_stored_request_that_is_not_what_its_digest_says_is_not_shown(folder: Path) -> None:
    """An owner who read it would sign something else."""
    inbox = inbox_of(folder)
    refused(inbox, ROUND, "consent-waiting")
    (entry,) = inbox.entries()
    other = entry.request.model_copy(update={"recipe": "harmless"})
    with inbox.store.writing() as db:
        db.execute("UPDATE consent_requests SET document = ?", (other.model_dump_json(),))
    assert inbox.entries() == []
    with pytest.raises(KeyError):
        inbox.decide(entry.digest, ALICE, "approve")


def test_cheap_jobs_of_a_recipe_can_approve_themselves(folder: Path) -> None:
    noisy = {**JOB, "planned": [{"kind": "train", "rounds": 3, "clip_norm": 1.0, "privacy": TERMS}]}
    cheap = numbered(1, request=noisy, privacy=TERMS)
    request = request_of(cheap)
    assert request is not None
    assert request.epsilon(PrivacyUnit.SITE, 1e-6) == 5.0
    assert math.isinf(request.epsilon(PrivacyUnit.RECORD, 1e-6))
    assert math.isinf(request.epsilon(PrivacyUnit.SITE, 1e-7)), "claimed at a larger delta"
    tight, wide = (Budget(PrivacyUnit.SITE, epsilon, 1e-6, 365) for epsilon in (10.0, 100.0))
    rule = PrivacyRule(budgets={request.dataset: (wide,), "again": (tight,)})
    assert request.shares(rule) == {PrivacyUnit.SITE: 0.05}
    same = replace(rule, same_files={request.dataset: frozenset({"again"})})
    assert request.shares(same) == {PrivacyUnit.SITE: 0.5}, "the other name of its file has a tighter budget"
    assert approves(ceiling(5.0), request)
    assert not approves(ceiling(4.9), request)
    assert not approves(ceiling(9.0, delta=1e-7), request)
    assert not approves(ceiling(9.0, digest="b" * 64), request)
    exact = request_of(ROUND)
    assert exact is not None
    assert not approves(ceiling(1000.0), exact)
    inbox, policy = inbox_of(folder), replace(POLICY, consent=ceiling(5.0))
    for number in (1, 2, 3):
        inbox.check(policy, numbered(number, request=noisy, privacy=TERMS))
    with pytest.raises(TaskFailure, match="used up"):
        inbox.check(policy, numbered(4, request=noisy, privacy=TERMS))
    more = {**noisy, "planned": [{**noisy["planned"][0], "rounds": 4}]}  # type: ignore[index]
    assert not approves(policy.consent, request_of(numbered(1, request=more, privacy=TERMS)))  # type: ignore[arg-type]
    inbox.decide(inbox.entries()[0].digest, BOB, "deny")
    with pytest.raises(TaskFailure, match="does not consent"):
        inbox.check(policy, cheap)


STEPS = st.tuples(
    st.sampled_from(["approve", "deny", "revoke"]),
    st.sampled_from([ALICE, BOB, EVE]),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([None, 50, 150]),
)


@given(st.lists(STEPS, max_size=6), st.integers(1, 2), st.integers(0, 4), st.integers(0, 6), st.randoms())
def test_the_states_follow_from_who_decided_what(
    steps: list[Any], need: int, used: int, over: int, shuffle: Any
) -> None:
    """In whatever order decisions are stored; and once more in the words of the page."""
    made = [
        Decision(decision=what, request="a" * 64, number=number, runs=runs, until_ms=until, at_ms=0, key=key.public)
        for number, (what, key, runs, until) in enumerate(steps, 1)
    ]
    signed = [SignedDecision.by({k.public: k for k in (ALICE, BOB, EVE)}[each.key], each) for each in made]
    shuffle.shuffle(signed)
    keys, ended = [ALICE.public, BOB.public], Ended(over, ConsentState.REVOKED if over else None)
    found = standing("a" * 64, signed, keys=keys, need=need, planned=2, used=used, ended=ended, now_ms=100)
    known = [each for each in made if each.key in keys]
    last_no = max((each.number for each in known if each.decision != "approve"), default=0)
    yes = {each.key: each for each in known if each.decision == "approve" and each.number > max(last_no, over)}
    given_now = len(yes) >= need
    fresh = all(each.until_ms is None or each.until_ms > 100 for each in yes.values())
    left = given_now and used < min(each.runs or 2 for each in yes.values())
    allowed = found.state in (ConsentState.APPROVED, ConsentState.ACTIVE)
    assert allowed == (given_now and fresh and left)
    if found.state in (ConsentState.DENIED, ConsentState.REVOKED):
        assert not yes
        assert last_no or over
    if not allowed and not given_now and not yes and (last_no or over):
        assert found.state in (ConsentState.DENIED, ConsentState.REVOKED)


def test_a_name_that_several_requests_have_decides_none(tmp_path: Path) -> None:
    """Who submits a job chooses its name, and when: the newest may be one that its owner has not read."""
    run, key = CliRunner().invoke, tmp_path / "alice.pem"
    ALICE.save(key, None)
    urls = {f"{name}_url": "http://127.0.0.1:9" for name in ("coordinator", "aggregator", "keys", "registry")}
    document = {**urls, "data_dir": "state", "owners": {"keys": [ALICE.public]}}
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(document))
    inbox, config = inbox_of(tmp_path), ["--config", str(tmp_path / "agent.yaml")]
    refused(inbox, ROUND, "consent-waiting")
    (first,) = inbox.entries()
    named = {**JOB, "name": first.digest[:8]}
    for job in ({**JOB, "reason": "Another one"}, named):
        refused(inbox, changed(request=job), "consent-waiting")
    for name in ("heart", first.digest[:8], "job_1"):
        told = run(app, ["consent", "approve", name, "--key", str(key), *config])
        assert told.exit_code != 0, told.output
        assert "requests are called" in str(told.exception)
    assert {entry.standing.state for entry in inbox.entries()} == {ConsentState.ASKED}
    assert run(app, ["consent", "approve", first.digest[:12], "--key", str(key), *config]).exit_code == 0
    assert inbox.entry(first.digest).standing.state is ConsentState.APPROVED
    inbox.decide(first.digest, ALICE, "approve", until_ms=2**53 - 1)
    assert run(app, ["consent", "list", *config]).exit_code == 0, "a time that no calendar has"


@pytest.mark.process
def test_an_agent_runs_what_its_owners_approved(
    make_agent: Callable[..., AgentProcess], platform: FakePlatform, tmp_path: Path
) -> None:
    """With the commands that owners use, two of them needed; approve, then revoke between two rounds."""
    run = CliRunner().invoke
    keys = [tmp_path / f"{name}.pem" for name in ("alice", "bob")]
    for path, key in zip(keys, (ALICE, BOB), strict=True):
        key.save(path, None)
    agent = make_agent(owners={"keys": [ALICE.public, BOB.public], "need": 2})
    policy = agent.folder / "policy.yaml"
    text = yaml.safe_dump({**agent.policy, "consent": "new"}).encode()
    policy.write_bytes(text)
    for key in (ALICE, BOB):
        sign_policy(policy, text, key, 1000)
    agent.start()
    config = ["--config", str(agent.folder / "agent.yaml")]
    numbers = itertools.count(1)
    job = {"name": "heart", "requester": "mara", "planned": [{"kind": "train", "rounds": 9}]}
    at = {"job_id": "job_consent", "model_id": "mdl_1", "request": job}

    def offer() -> str:
        before = len(platform.ended)
        number = next(numbers)
        model = platform.add_model([1.0, 2.0, 3.0])
        platform.offer(platform.manifest(agent.recipe, model_ref=model, number=number, **at))
        platform.wait(lambda: len(platform.ended) > before)
        end, told = platform.ended[-1]
        return str(told.get("code") or end.split(":")[0])

    def notes() -> list[str]:
        return [note["state"] for note in platform.profiles[-1]["consents"]]

    def decide(*words: str) -> None:
        told = run(app, ["consent", *words, *config])
        assert told.exit_code == 0, (told.output, told.exception)

    assert offer() == "consent-waiting"
    assert notes() == ["waiting"], "told before the task was given back"
    listed = json.loads(run(app, ["consent", "list", "--json", *config]).stdout)
    assert [(each["state"], each["need"]) for each in listed] == [("asked", 2)]
    status = subprocess.run(agent.command("status"), capture_output=True, text=True, check=True, timeout=60)
    assert "job heart waits for consent: see `undersong consent show`" in json.loads(status.stdout)["warnings"]
    decide("approve", "heart", "--runs", "2", "--key", str(keys[0]))
    assert offer() == "consent-waiting"
    decide("approve", "job_consent", "--key", str(keys[1]))
    platform.wait(lambda: notes() == [], 20)
    assert offer() == "completions"
    page = run(app, ["consent", "show", "heart", "--source", *config]).stdout
    assert "active, 1 of 2 runs left" in page
    assert "who sees a single update: the aggregator sees each update" in page
    assert "RECIPE =" in page
    decide("revoke", "heart", "--note", "enough", "--key", str(keys[0]))
    platform.wait(lambda: notes() == ["denied"], 20)
    assert offer() == "consent-denied"
    assert "enough" in run(app, ["consent", "show", "heart", *config]).stdout
    agent.kill()
