"""Policies that owners sign: only what they signed last, whole, by enough of them, is used."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.effort import examples
from tests.services.agent.conftest import AgentProcess
from tests.services.agent.fake_platform import FakePlatform
from tests.services.agent.policy.test_file import ended, put, wait_for
from tests.services.agent.policy.test_file_references import POLICY
from undersong.cli import app
from undersong.services.agent.policy.owners import POLICY as OWNED
from undersong.services.agent.policy.owners import OwnerMark, PolicyUnsigned, load_policy
from undersong.services.agent.settings import AgentSettings, ConfigError, OwnerSettings
from undersong.services.agent.settings import load as load_settings
from undersong.shared.identity.owner import BadOwnerKey, OwnerKey, sign_policy

ALICE, BOB, EVE = (OwnerKey.generate() for _ in range(3))
URLS = {f"{name}_url": "http://127.0.0.1:1" for name in ("coordinator", "aggregator", "keys", "registry")}
TEXT = yaml.safe_dump(POLICY, sort_keys=False).encode()


def site(folder: Path, need: int = 1) -> AgentSettings:
    """The settings of an agent in this folder whose owners are Alice and Bob."""
    owners = OwnerSettings(keys=[ALICE.public, BOB.public], need=need)
    return AgentSettings(data_dir=folder / "state", policy=folder / "policy.yaml", owners=owners, **URLS)


def signed(folder: Path, text: bytes, *keys: OwnerKey, now_ms: int) -> None:
    (folder / "policy.yaml").write_bytes(text)
    for key in keys:
        sign_policy(folder / "policy.yaml", text, key, now_ms)


def refused(setup: AgentSettings, said: str) -> None:
    with pytest.raises(PolicyUnsigned, match=said) as error:
        load_policy(setup, note=True)
    assert error.value.code == "policy-signature"


def test_only_enough_owners_make_a_policy_hold(tmp_path: Path) -> None:
    setup, beside = site(tmp_path, need=2), tmp_path / "policy.yaml.sig"
    (tmp_path / "policy.yaml").write_bytes(TEXT)
    refused(setup, "not signed")
    signed(tmp_path, TEXT, ALICE, EVE, now_ms=1000)
    refused(setup, "1 of 2 signatures")
    document = json.loads(beside.read_text())
    forged = [document["signatures"][0], {**document["signatures"][1], "key": BOB.public}]
    beside.write_text(json.dumps({**document, "signatures": forged}))
    refused(setup, "1 of 2 signatures")
    beside.write_text(json.dumps({**document, "signatures": [document["signatures"][0]] * 2}))
    refused(setup, "1 of 2 signatures")
    signed(tmp_path, TEXT, BOB, now_ms=2000)
    policy, _ = load_policy(setup)
    assert policy.min_cohort == 3
    assert json.loads(beside.read_text())["serial"] == 1000, "Bob signed what Alice had signed"
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "serial": 1001}))
    refused(setup, "0 of 2 signatures")


def test_an_older_policy_is_not_taken_back(tmp_path: Path) -> None:
    setup, old, weak = site(tmp_path), tmp_path / "old", TEXT.replace(b"min_cohort: 3", b"min_cohort: 1")
    signed(tmp_path, weak, ALICE, now_ms=1000)
    assert load_policy(setup, note=True)[0].min_cohort == 1
    shutil.copytree(tmp_path, old, ignore=shutil.ignore_patterns("high-water*"))
    signed(tmp_path, TEXT, ALICE, now_ms=500)  # the owner's clock was put back: still later than the one before
    assert load_policy(setup, note=True)[0].min_cohort == 3
    for name in ("policy.yaml", "policy.yaml.sig"):
        shutil.copy(old / name, tmp_path / name)
    refused(setup, "an older policy is not taken back")
    signed(tmp_path, TEXT, BOB, now_ms=10**12)
    (tmp_path / "policy.yaml.sig").unlink()
    signed(tmp_path, weak, BOB, now_ms=999)
    refused(setup, "an older policy is not taken back")
    signed(tmp_path, TEXT, BOB, now_ms=1001)
    load_policy(setup, note=True)
    (tmp_path / "policy.yaml.sig").unlink()
    signed(tmp_path, TEXT + b"\n", ALICE, now_ms=1001)
    refused(setup, "an older policy is not taken back")
    assert OwnerMark(setup.owner_mark).read(OWNED).number == 1001


FUZZ = settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.data())
@FUZZ
def test_a_policy_or_signature_with_any_other_byte_is_refused(tmp_path: Path, data: Any) -> None:
    """Cut off, also at the end of a line, where it would be a valid and weaker policy; edited; or with bytes more."""
    setup = site(tmp_path)
    signed(tmp_path, TEXT, ALICE, now_ms=1000)
    load_policy(setup)
    path = tmp_path / data.draw(st.sampled_from(["policy.yaml", "policy.yaml.sig"]))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = data.draw(
        st.sampled_from([whole[:at], whole[: whole.rfind(b"\n", 0, at) + 1], whole[:at] + b"#" + whole[at + 1 :]])
    )
    path.write_bytes(changed)
    if changed != whole and json_of(changed) != json_of(whole):
        refused(setup, "undersong policy sign")


def json_of(data: bytes) -> object:
    """What a signature file says: white space means nothing in it."""
    try:
        return json.loads(data)
    except ValueError:
        return data


def test_settings_that_can_never_be_met_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    for owners, said in (
        ({"keys": [ALICE.public], "need": 2}, "can never sign"),
        ({"keys": [ALICE.public] * 2}, "twice"),
        ({"keys": []}, "1 or more are needed"),
        ({"keys": [ALICE.public[:-2]]}, "pattern"),
        ({"keys": [ALICE.public], "neeed": 1}, "did you mean 'need'"),
    ):
        file.write_text(yaml.safe_dump({**URLS, "owners": owners}))
        with pytest.raises(ConfigError, match=said):
            load_settings(file)


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "owner.pem"
    ALICE.save(path, b"secret words")
    assert path.stat().st_mode & 0o777 == 0o600
    assert OwnerKey.load(path, b"secret words").public == ALICE.public
    for wrong in (None, b"", b"other words"):
        with pytest.raises(BadOwnerKey):
            OwnerKey.load(path, wrong)
    with pytest.raises(FileExistsError):
        BOB.save(path, None)
    assert OwnerKey.load(path, b"secret words").public == ALICE.public
    path.write_text("no key")
    with pytest.raises(BadOwnerKey):
        OwnerKey.load(path, None)


@pytest.mark.process
def test_an_agent_with_owners_works_only_under_a_signed_policy(
    make_agent: Callable[..., AgentProcess], platform: FakePlatform, tmp_path: Path
) -> None:
    """With the commands that owners use. What is not signed is told as a code, and tasks wait until it is."""
    key, words, run = tmp_path / "owner.pem", tmp_path / "words", CliRunner().invoke
    words.write_text("secret words\n")
    unlocked = ["--key", str(key), "--passphrase-file", str(words)]
    alone = run(app, ["owner", "init", "--key", str(key)], input="")
    assert "without a terminal" in str(alone.exception)
    made = run(app, ["owner", "init", *unlocked])
    assert made.exit_code == 0, made.output
    owners = yaml.safe_load(made.stdout[made.stdout.index("owners:") :])["owners"]
    agent = make_agent(owners=owners)
    policy = agent.folder / "policy.yaml"
    assert "is not signed" in ended(agent)
    assert [fault["code"] for fault in platform.profiles[-1]["faults"]] == ["policy-signature"]
    told = run(app, ["policy", "sign", str(policy), *unlocked])
    assert told.exit_code == 0, told.output
    agent.start()
    platform.wait(lambda: platform.profiles[-1]["recipes"])
    whole = policy.read_text()
    put(policy, whole[: whole.rstrip("\n").rfind("\n") + 1])  # cut off at the end of a line
    platform.wait(lambda: [fault["code"] for fault in platform.profiles[-1]["faults"]] == ["policy-signature"])
    platform.offer(platform.manifest(agent.recipe, model_ref=platform.add_model([1.0])))
    platform.wait(lambda: platform.ended, 20)
    assert platform.ended[0][1]["code"] == "policy-signature"
    assert "edited or cut off" in agent.events("site.unreadable")[-1]["reason"]
    put(policy, whole)
    platform.wait(lambda: platform.profiles[-1]["faults"] == [])
    wait_for(lambda: platform.profiles[-1]["recipes"])
    assert agent.kill(signal.SIGTERM) == 0
    text = run(app, ["owner", "show", *unlocked]).stdout
    assert owners["keys"][0] in text
    words.write_text("other words\n")
    failed = run(app, ["owner", "show", *unlocked])
    assert "the passphrase does not open it" in str(failed.exception)
