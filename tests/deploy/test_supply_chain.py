"""What is shipped, and from what: pinned by hash, under known licences, without calls that run what they read."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("undersong", "services", "shared", "recipes", "deploy", "examples")
SERVICES = ("coordinator", "aggregator", "keys", "registry", "agent", "inference")
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "os.system", "os.popen", "torch.load", "yaml.load", "yaml.unsafe_load", "tempfile.mktemp"}


def _named(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_named(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _faults(source: str) -> Iterator[str]:
    """Calls and imports through which data becomes code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            name, given = _named(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in CALLS or name.endswith(".extractall"):
                yield name
            if given.get("shell") == "True" or given.get("trust_remote_code") == "True":
                yield f"{name}(shell)"
            if name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
                yield f"{name} may unpickle"


def test_nothing_shipped_runs_what_it_reads() -> None:
    """Recipes apart, in one place: they are code, which a site's policy allows by its digest."""
    files = [path for folder in SHIPPED for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150
    found = {str(path.relative_to(ROOT)): list(_faults(path.read_text())) for path in files}
    assert {name: faults for name, faults in found.items() if faults} == {"recipes/catalogue.py": ["exec"]}


@pytest.mark.parametrize(
    "planted",
    ["import pickle", "from joblib import load", "torch.load(f)", "eval(x)", "run(x, shell=True)", "t.extractall()",
     "yaml.load(f, Loader=L)", "np.load(f)", "np.load(f, allow_pickle=True)", "os.system(x)"],
)  # fmt: skip
def test_the_rule_sees_each_of_them(planted: str) -> None:
    assert list(_faults(planted))
    assert not list(_faults("np.load(f, allow_pickle=False); model.eval(); run([x], shell=False); yaml.safe_load(f)"))


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"deploy_{name}", ROOT / "deploy" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LICENCES, LOCK = _load("licences"), _load("lock")


def _locked(name: str) -> dict[str, tuple[Requirement, int]]:
    """Package → its requirement, and how many hashes it may have, for what is installed on this kind of machine."""
    found = LOCK.blocks((ROOT / "deploy" / "locks" / f"{name}.txt").read_text())
    assert found
    read: dict[str, tuple[Requirement, int]] = {}
    for block in found.values():
        need = Requirement(block.split(" \\\n")[0])
        assert [each.operator for each in need.specifier] == ["=="], block
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block)
        assert len(hashes) == block.count("\n") - 1, block
        if need.marker is None or need.marker.evaluate({"python_full_version": "3.11.7", "python_version": "3.11"}):
            read[LICENCES.normal(need.name)] = need, len(hashes)
    return read


@pytest.mark.parametrize("service", SERVICES)
def test_every_image_is_installed_from_hashes_alone(service: str) -> None:
    """The lock holds what the service needs and nothing else, in the versions that were tested, with hashes."""
    locked = _locked(service)
    needed = set(LICENCES.closure(service)) - {"undersong", "torch"}
    assert set(locked) - needed <= {"async-timeout", "setuptools"}, "not needed"
    assert needed - set(locked) == set(), "not locked: make lock"
    pins = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split())
    pins = {LICENCES.normal(name): version for name, version in pins.items()}
    for name, (need, hashes) in locked.items():
        assert hashes > 0, name
        if name in pins:
            assert need.specifier.contains(pins[name].split("+")[0]), name
    if service == "agent":
        assert {str(_locked(each)["torch"][0].specifier).split("+")[0] for each in ("torch-cpu", "torch-cuda")} == {
            f"=={pins['torch'].split('+')[0]}"
        }


def test_images_run_no_install_scripts_and_take_no_moving_base() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    joined = text.replace("\\\n", " ")
    steps = re.findall(r"pip [^&|;]*install [^&|;]*", joined)
    assert len(steps) == 2
    for step in steps:
        assert {"--no-deps", "--require-hashes", "--only-binary"} <= set(step.split()), step
        assert ":all:" in step.split(), step
    assert not re.search(r"^ADD ", text, re.MULTILINE)
    bases = re.findall(r"^(?:FROM|ARG PYTHON_IMAGE=)\s*(\S+)", text, re.MULTILINE)
    for image in [base for base in bases if ":" in base]:
        assert not image.endswith(":latest"), image
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "10001:10001"


def _compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


def test_the_compose_file_says_what_the_containers_must_be() -> None:
    """What `make e2e` sees in running containers, said without an engine too: a new service cannot forget it."""
    for name, service in _compose().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert {"mem_limit", "pids_limit", "cpus"} <= set(service), name
        assert ("cap_add" in service, "ports" in service) == (name == "secrets", name in ("edge", "inference")), name
        assert service["user"] not in {"root", "0", "0:0"} or name == "secrets", name
        assert not {"privileged", "pid", "ipc", "devices"} & set(service), name
        assert "docker.sock" not in str(service), name
        image = re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", service["image"])
        assert ":" in image, name
        assert not image.endswith(":latest"), name
        spoken = [value for value in service.get("environment", {}).values() if str(value).startswith("http://")]
        assert not spoken, (name, spoken)


def test_licences_are_known_and_allowed() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "licences.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("told", "good"),
    [("MIT", True), ("Apache-2.0 OR GPL-3.0-only", True), ("MIT AND GPL-3.0-only", False), ("", False),
     ("BSD-3-Clause AND (MIT OR AGPL-3.0-only)", True)],
)  # fmt: skip
def test_a_licence_that_is_not_in_the_list_is_refused(told: str, good: bool) -> None:
    assert LICENCES.allowed(told) is good


SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/]{40}|\bu(?:st|se|so)_[A-Za-z0-9_-]{40,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36}"
)


def test_no_secret_is_in_the_tree() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 2**20:
            assert not SECRET.search(path.read_text(errors="ignore")), name


def test_the_scan_sees_a_secret() -> None:
    assert SECRET.search("-----BEGIN PRIVATE KEY-----\n" + "M" * 48)
    assert SECRET.search("token: ust_" + "a1B2" * 11)
