"""Every name in `policy.yaml` and `agent.yaml` that refers to something: one wrong character is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.near_misses import exchanged, misspelt, names_in
from undersong.recipes.catalogue import BUILT_IN, load_recipe
from undersong.services.agent.policy import file as policies
from undersong.services.agent.runner.protocol import Description
from undersong.services.agent.settings import ConfigError, load
from undersong.services.agent.site.description import unresolved
from undersong.shared.names import MEANT

SPECS = [load_recipe(name).spec.model_dump(mode="json") for name in BUILT_IN]
COLUMNS = [{"name": name, "type": "number"} for name in ("age", "pressure", "disease")]
SITE = Description(
    recipes=SPECS,
    own_recipes=[],
    datasets=[],
    hardware={},
    declared=[{"name": "heart", "columns": COLUMNS}, {"name": "images", "columns": []}],
    unread={"broken": "its file is not there"},
)
POLICY: dict[str, Any] = {
    "version": 1,
    "federations": ["own"],
    "recipes": [{"name": "tabular", "digest": SPECS[BUILT_IN.index("tabular")]["digest"]}, {"name": "statistics"}],
    "datasets": {"heart": {"columns": ["age", "disease"]}, "broken": {"columns": "*"}, "images": {"columns": "*"}},
    "engines": ["pairwise", "twoserver"],
    "kinds": ["train", "evaluate"],
    "min_cohort": 3,
    "statistics": {"measures": ["moments", "table"], "min_cell": 5},
    "timezone": "Europe/Berlin",
    "resources": {"task_s": 60},
    "reports": "location",
}
AGENT: dict[str, Any] = {
    "data_dir": "state",
    "coordinator_url": "http://127.0.0.1:1",
    "aggregator_url": "http://127.0.0.1:1",
    "keys_url": "http://127.0.0.1:1",
    "registry_url": "http://127.0.0.1:1",
    "datasets": "datasets.yaml",
    "policy": "policy.yaml",
    "recipes": ["own-recipes"],
    "runner": "process",
    "device": "cpu",
    "containment": "best",
    "log_level": "info",
    "docker": {"image": "agent"},
}
FREE = [
    ("data_dir",),
    ("docker", "image"),
    *((f"{name}_url",) for name in ("coordinator", "aggregator", "keys", "registry")),
]
FUZZ = settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(path: Path, document: dict[str, Any]) -> None:
    """Read the policy as the agent does."""
    path.write_text(yaml.safe_dump(document))
    policy, _ = policies.load(path)
    if faults := [fault for fault in unresolved(policy, SITE) if MEANT in fault]:
        raise ConfigError("\n".join(faults))


def written(folder: Path, document: dict[str, Any]) -> Path:
    for name in ("datasets.yaml", "policy.yaml"):
        (folder / name).touch()
    (folder / "own-recipes").mkdir(exist_ok=True)
    (folder / "agent.yaml").write_text(yaml.safe_dump(document))
    return folder / "agent.yaml"


def test_the_files_are_valid(tmp_path: Path) -> None:
    check(tmp_path / "policy.yaml", POLICY)
    assert load(written(tmp_path, AGENT)).policy == tmp_path / "policy.yaml"


@given(st.sampled_from(list(names_in(POLICY))), st.data())
@FUZZ
def test_a_misspelt_name_in_the_policy_is_refused(tmp_path: Path, found: Any, data: Any) -> None:
    place, name, key = found
    wrong = data.draw(misspelt(name))
    assume(wrong.strip() == wrong and wrong)
    with pytest.raises(ConfigError) as refused:
        check(tmp_path / "policy.yaml", exchanged(POLICY, place, name, wrong, key=key))
    assert name in str(refused.value) or "0.digest: String should match" in str(refused.value), (place, wrong)


@given(st.sampled_from(list(names_in(AGENT, FREE))), st.data())
@FUZZ
def test_a_misspelt_name_in_agent_yaml_is_refused(tmp_path: Path, found: Any, data: Any) -> None:
    place, name, key = found
    wrong = data.draw(misspelt(name))
    assume(wrong.strip() == wrong and wrong)
    file = written(tmp_path, exchanged(AGENT, place, name, wrong, key=key))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert name in str(refused.value), (place, wrong, str(refused.value))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_misspelt_environment_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, AGENT)
    monkeypatch.setenv("AGENT_FORWARDING", "yes")  # some other program's
    load(file)
    monkeypatch.setenv("AGENT_DATADIR", "elsewhere")
    with pytest.raises(ConfigError, match="AGENT_DATA_DIR"):
        load(file)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AGENT_LOG_LEVEL", "loud"),
        ("AGENT_DOCKER__TMP_BYTES", "few"),
        ("AGENT_DOCKER__IMGE", "mine"),
        ("AGENT_RECIPES", "mine.py"),
        ("AGENT_CA_FILE", "/nowhere/ca.pem"),
        ("AGENT_DATADIR", "elsewhere"),
    ],
)
def test_a_fault_in_the_environment_is_not_blamed_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    file = written(tmp_path, AGENT)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert str(file) not in str(refused.value)
    assert variable in str(refused.value)


def test_a_second_agent_in_one_folder_is_no_misspelling(tmp_path: Path) -> None:
    """`policy-2.yaml` is written at its first start, beside `policy-1.yaml`."""
    (tmp_path / "policy-1.yaml").touch()
    load(written(tmp_path, {**AGENT, "policy": "policy-2.yaml"}))


def test_code_that_was_replaced_may_stay_pinned(tmp_path: Path) -> None:
    """An update of the platform must not keep an agent from starting: the old digest just allows nothing."""
    check(tmp_path / "policy.yaml", {**POLICY, "recipes": [{"name": "tabular", "digest": "ab" * 32}]})
