"""A real agent that finds a foreign certificate, or another log, in the transparency log: wherever a person looks."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.services.agent.conftest import AgentProcess
from tests.services.agent.fake_platform import FEDERATION, SITE, FakePlatform
from undersong.doctor.agent import examine_agent
from undersong.shared.identity.authority import Subject
from undersong.shared.ids import Digest
from undersong.shared.wire.manifest import LogHead, head_statement

pytestmark = pytest.mark.process


def status(agent: AgentProcess) -> dict[str, Any]:
    done = subprocess.run(agent.command("status"), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_alarms_are_in_the_log_the_status_the_doctors_findings_and_the_sites_profile(
    platform: FakePlatform, make_agent: Any
) -> None:
    agent: AgentProcess = make_agent(watch_log_s=1)
    agent.start()
    platform.wait(lambda: sum(path == "/v1/log/head" for _, path in platform.requests) >= 2)
    assert status(agent)["alarms"] == []
    platform.log.issue(Subject("site", SITE, FEDERATION).uri, os.urandom(32), "f" * 64)
    platform.wait(lambda: platform.profiles[-1]["alarms"])
    assert [alarm["kind"] for alarm in platform.profiles[-1]["alarms"]] == ["foreign-certificate"]
    root = os.urandom(32)
    head = LogHead(
        size=1,
        root=Digest(root.hex()),
        timestamp_ms=1,
        keyid=platform.keys.keyid,
        signature=platform.keys.private_key.sign(head_statement(1, root, 1)).hex(),
    )
    version = platform.add_model([1.0, 2.0, 3.0, 4.0])
    platform.offer(platform.manifest(agent.recipe, model_ref=version, log_head=head))
    platform.wait(lambda: len(platform.profiles[-1]["alarms"]) == 2)
    platform.wait(lambda: platform.ended)
    assert platform.ended[0][0].startswith("completions:"), "an alarm stops no work"
    kinds = ["foreign-certificate", "log-fork"]
    assert [event["kind"] for event in agent.events("site.alarm")] == kinds
    assert [alarm["kind"] for alarm in status(agent)["alarms"]] == kinds
    assert sum("accept-log" in warning for warning in status(agent)["warnings"]) == 2
    found = {finding.subject: finding for finding in examine_agent(Path(agent.folder / "agent.yaml"))}
    assert all(found[kind].state == "fault" and "accept-log" in str(found[kind].remedy) for kind in kinds)
    subprocess.run(agent.command("accept-log"), check=True, capture_output=True)
    platform.wait(lambda: [alarm["kind"] for alarm in platform.profiles[-1]["alarms"]] == kinds[:1])
