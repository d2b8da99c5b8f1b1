"""The policy that an agent writes at its first start, and what becomes of data that no policy names."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.pace import Deadline
from tests.services.agent.conftest import AgentProcess
from tests.services.agent.fake_platform import FakePlatform
from undersong.services.agent.policy import file as policies
from undersong.services.agent.policy.entries import PolicyFile
from undersong.services.agent.settings import ConfigError
from undersong.shared.secagg import engines

pytestmark = pytest.mark.process

Make = Callable[..., AgentProcess]


def declared(path: Path) -> dict[str, object]:
    columns = [{"name": "age", "type": "number"}, {"name": "y", "type": "number"}]
    entry = {"name": "heart", "kind": "csv", "path": str(path), "label": "y", "columns": columns}
    return {"datasets": [entry, {"name": "nothing", "kind": "none"}]}


def ended(agent: AgentProcess) -> str:
    """The last line of an agent that cannot start."""
    agent.start()
    assert agent.process is not None
    assert agent.process.wait(30) != 0
    return agent.log().splitlines()[-1]


def test_the_first_policy_allows_what_is_declared(make_agent: Make, tmp_path: Path) -> None:
    """Not before something is: else it would allow nothing long after the data is there, without a visible reason."""
    agent, policy, rows = make_agent(data_again_s=0.2), tmp_path / "site0" / "policy.yaml", tmp_path / "rows.csv"
    policy.unlink()
    (agent.folder / "datasets.yaml").unlink()
    assert "datasets.yaml: declare the data first" in ended(agent)
    agent.write("datasets.yaml", {"datasets": [{"name": "heart", "kind": "csv"}]})
    assert "heart: /datasets/0/path names no file" in ended(agent)
    assert not policy.exists()
    agent.write("datasets.yaml", declared(rows))
    agent.start()
    wait_for(lambda: agent.events("profile.told"))
    assert set(yaml.safe_load(policy.read_text())["datasets"]) == {"heart", "nothing"}
    (told,) = agent.events("dataset.unreadable")
    assert f"there is no file {rows}" in told["reason"]
    assert agent.events("profile.told")[-1]["datasets"] == 1
    rows.write_text("age,y\n61,1\n47,0\n")
    wait_for(lambda: agent.events("profile.told")[-1]["datasets"] == 2)
    agent.kill(signal.SIGTERM)
    policy.unlink()
    assert "no policy: put it back" in ended(agent), "a weaker one is never written in the place of one that is gone"
    assert not policy.exists()


def test_a_refused_job_names_the_line_that_the_owner_may_uncomment(make_agent: Make, platform: FakePlatform) -> None:
    """With the first policy a sealed round is refused, and the coordinator is told which line; uncommented, it runs."""
    agent = make_agent()
    policy = agent.folder / "policy.yaml"
    policy.unlink()
    agent.start()
    platform.wait(lambda: platform.profiles)
    null = next(spec for spec in platform.profiles[-1]["recipes"] if spec["name"] == "null")

    def offer() -> None:
        version = platform.add_model([1.0, 2.0, 3.0])
        platform.offer(platform.manifest(("null", null["digest"]), model_ref=version, params={"parameters": 3}))

    offer()
    platform.wait(lambda: platform.ended)
    end, told = platform.ended[0]
    assert (end.split(":")[0], told["code"]) == ("failures", "policy-engine")
    assert "uncomment or add the line `- sealed` under `engines` in policy.yaml" in told["message"]
    asked = platform.waiting
    wait_for(lambda: platform.waiting > asked)  # the refused task is behind it
    put(policy, policy.read_text().replace("# - sealed", "- sealed"))
    offer()
    platform.wait(lambda: len(platform.ended) == 2)
    assert platform.ended[1][0].startswith("completions:"), platform.ended[1]


def test_what_the_owner_withdraws_while_the_agent_waits_holds_for_the_very_next_task(
    make_agent: Make, platform: FakePlatform
) -> None:
    """A request for work waits for long: the task that answers it is judged by the policy of now, not of then."""
    agent = make_agent()
    policy = agent.folder / "policy.yaml"
    policy.unlink()
    agent.start()
    platform.wait(lambda: platform.profiles)
    null = next(spec for spec in platform.profiles[-1]["recipes"] if spec["name"] == "null")
    policy.write_text(policy.read_text().replace("# - sealed", "- sealed"))
    for turn in range(3):
        said = policy.read_text()
        asked = platform.waiting
        wait_for(
            lambda asked=asked: platform.waiting > asked
        )  # it has read the file, asks, and hears of the task below
        policy.write_text(said.replace("- train", "# - train") if turn != 1 else said.replace("# - train", "- train"))
        version = platform.add_model([1.0, 2.0, 3.0])
        platform.offer(platform.manifest(("null", null["digest"]), model_ref=version, params={"parameters": 3}))
        platform.wait(lambda turn=turn: len(platform.ended) == turn + 1)
        end, told = platform.ended[turn]
        assert (end.split(":")[0], told.get("code")) == (
            ("completions", None) if turn == 1 else ("failures", "policy-kind")
        ), told


def put(file: Path, text: str) -> None:
    """Exchange a file in one step, as docs/data.md says."""
    part = file.with_name("part")
    part.write_text(text)
    part.replace(file)


def test_files_that_change_while_the_agent_waits_are_told_within_seconds(
    make_agent: Make, platform: FakePlatform, tmp_path: Path
) -> None:
    """A request for work lasts half a minute; a broken policy, its correction and a corrected data file do not wait."""
    platform.poll_s, rows = 600.0, tmp_path / "rows.csv"
    agent, whole = make_agent(data_again_s=0.2), "age,y\n61,1\n47,0\n"
    policy = agent.folder / "policy.yaml"
    said = yaml.safe_dump({**agent.policy, "datasets": {"heart": {"columns": "*"}, "nothing": {"columns": "*"}}})
    policy.write_text(said)
    agent.write("datasets.yaml", declared(rows))
    rows.write_text("age,y\n61,secret\n")
    agent.start()
    wait_for(lambda: platform.waiting)

    def told() -> tuple[list[str], list[tuple[str, str | None]]]:
        last = platform.profiles[-1]
        return [one["name"] for one in last["datasets"]], [(one["code"], one["dataset"]) for one in last["faults"]]

    assert told() == (["nothing"], [("dataset-unreadable", "heart")])
    put(rows, whole)
    platform.wait(lambda: told() == (["heart", "nothing"], []), 20)
    put(policy, said + "engines: [")
    platform.wait(lambda: told() == ([], [("policy-unreadable", None)]), 20)
    assert platform.profiles[-1]["recipes"] == []
    version = platform.add_model([1.0, 2.0, 3.0])
    platform.offer(platform.manifest(agent.recipe, model_ref=version))
    platform.wait(lambda: platform.ended, 20)
    end, refused = platform.ended[0]
    assert (end.split(":")[0], refused["code"]) == ("failures", "policy-unreadable")
    put(policy, said)
    platform.wait(lambda: told() == (["heart", "nothing"], []), 20)
    policy.unlink()
    platform.wait(lambda: told() == ([], [("policy-unreadable", None)]), 20)
    assert not policy.exists(), "an agent at work writes no policy in its owner's place"
    put(policy, said)
    platform.wait(lambda: told() == (["heart", "nothing"], []), 20)
    put(agent.folder / "datasets.yaml", "datasets: [")
    platform.wait(lambda: told() == ([], [("datasets-unreadable", None)]), 20)
    assert platform.waiting == 2, "all of it was told beside the requests for work"
    assert "secret" not in str(platform.profiles), "reasons stay at the site"
    agent.kill()


def test_a_policy_that_keeps_the_agent_from_starting_is_told(make_agent: Make, platform: FakePlatform) -> None:
    agent = make_agent()
    (agent.folder / "policy.yaml").write_text("engines: [")
    assert "policy.yaml: not YAML" in ended(agent)
    assert [fault["code"] for fault in platform.profiles[-1]["faults"]] == ["policy-unreadable"]


def test_data_that_the_policy_does_not_name_is_told(make_agent: Make, tmp_path: Path) -> None:
    """It was declared after the policy was written: the policy is kept, and the log says what to do."""
    agent, rows = make_agent(), tmp_path / "rows.csv"
    rows.write_text("age,y\n61,1\n47,0\n")
    policy = yaml.safe_load((agent.folder / "policy.yaml").read_text())
    agent.write("policy.yaml", {**policy, "datasets": {"nothing": {"columns": "*"}}})
    agent.write("datasets.yaml", declared(rows))
    agent.start()
    wait_for(lambda: agent.events("profile.told"))
    (told,) = agent.events("dataset.withheld")
    assert (told["dataset"], "policy.yaml does not name it" in told["reason"]) == ("heart", True)
    assert agent.kill(signal.SIGTERM) == 0


def wait_for(found: Callable[[], object]) -> None:
    until = Deadline(60)
    while not found():
        assert not until.over()
        time.sleep(0.05)


def test_a_misspelt_name_in_the_policy_keeps_the_agent_from_starting(make_agent: Make) -> None:
    """At its start a person is there to see it, with the name that was meant; a site at work goes on and tells it."""
    agent = make_agent()
    policy = yaml.safe_load((agent.folder / "policy.yaml").read_text())
    agent.write("policy.yaml", {**policy, "datasets": {"bencj": {"columns": "*"}}})
    assert "no data set is called bencj; did you mean 'bench'" in ended(agent)
    agent.write("policy.yaml", policy)
    agent.start()
    wait_for(lambda: agent.events("profile.told"))
    agent.write("policy.yaml", {**policy, "datasets": {**policy["datasets"], "bencj": {"columns": "*"}}})
    wait_for(lambda: agent.events("policy.unresolved"))
    assert not agent.events("site.unreadable")


def test_names_in_a_policy_that_refer_to_nothing_are_told_with_those_that_are_near(tmp_path: Path) -> None:
    """Engines and fields stop the policy; data sets, columns and recipes may come later, so the agent tells them."""
    assert PolicyFile(federations=[], recipes=[], datasets={}, engines=list(engines.ENGINES)).engines
    file = tmp_path / "policy.yaml"
    datasets = {"hart": {"columns": "*"}, "heart": {"columns": ["aeg", "y"]}, "bad": {"columns": ["x"]}}
    whole = {"federations": ["own"], "recipes": ["tabuler"], "engines": ["pairwise"], "datasets": datasets}
    for change, near in (({"engines": ["pairwize"]}, "'pairwise'"), ({"min_cohrt": 3}, "'min_cohort'")):
        file.write_text(yaml.safe_dump({**whole, **change}))
        with pytest.raises(ConfigError, match=near):
            policies.load(file)
    file.write_text(yaml.safe_dump(whole))
    faults = policies.unresolved(policies.load(file)[0], {"heart": ["age", "y"], "bad": []}, ["tabular", "null"])
    found = [fault.sentence for fault in faults]
    assert [line.split(";")[0] for line in found] == [
        "datasets: no data set is called hart", "datasets.heart: there is no column aeg",
        "recipes: no recipe is called tabuler",
    ]  # fmt: skip
    assert all(near in line for near, line in zip(("'heart'", "'age'", "'tabular'"), found, strict=True))
