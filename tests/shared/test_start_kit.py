"""The start kit: what is in it, that an agent takes its files, and that the token is its only secret."""

import io
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from undersong.services.agent.policy.entries import PolicyFile
from undersong.shared.start_kit import StartKit
from undersong.shared.yaml_texts import load_document

TOKEN = "use_only-once"
URLS = {name: f"https://fl.example.org:{port}" for name, port in
        (("coordinator", 7001), ("aggregator", 7002), ("keys", 7003), ("registry", 7004))}  # fmt: skip


def kit(name: str = "north side", **changes: object) -> StartKit:
    made = {"name": name, "site_id": "site_1", "token": TOKEN, "urls": URLS, "ca_pem": b"CERTIFICATE"}
    return StartKit(**{**made, "expires_at": datetime(2027, 1, 2, 3, 4, tzinfo=UTC), **changes})  # type: ignore[arg-type]


def unpacked(made: StartKit, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(made.archive())) as archive:
        archive.extractall(folder, filter="data")
    return folder / made.folder


def test_the_token_is_the_only_secret_and_is_in_its_file_alone(tmp_path: Path) -> None:
    folder = unpacked(kit(), tmp_path)
    assert {file.name for file in folder.iterdir() if TOKEN in file.read_text()} == {"enrol-token"}
    assert (folder / "enrol-token").stat().st_mode & 0o077 == 0
    readme = (folder / "README.txt").read_text()
    assert "until\n2027-01-02 03:04 UTC" in readme
    assert "undersong site approve north side" not in readme, "names are quoted for a shell"
    assert "undersong site approve 'north side'" in readme
    assert "site approve" not in (kit(needs_approval=False).files()["README.txt"]).decode()


def test_an_agent_takes_the_files_and_allows_nothing_yet(tmp_path: Path) -> None:
    folder = unpacked(kit(), tmp_path)
    settings = load_document((folder / "agent.yaml").read_text())
    assert settings["keys_url"] == "https://fl.example.org:7003"
    assert settings["ca_file"] == "ca.pem"
    policy = PolicyFile.model_validate(load_document((folder / "policy.yaml").read_text()))
    assert (policy.recipes, policy.datasets, policy.min_cohort) == ([], {}, 3)
    (service,) = yaml.safe_load((folder / "compose.yaml").read_text())["services"].values()
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    command = [sys.executable, "-m", "undersong.services.agent", "--config", str(folder / "agent.yaml"), "init"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is there and valid" in done.stdout


@pytest.mark.parametrize("name", ["../../etc", "", "..", "a/b", "nord\n", "北"])
def test_a_sites_name_leads_out_of_no_folder(name: str, tmp_path: Path) -> None:
    folder = unpacked(kit(name), tmp_path / "here")
    assert folder.parent == tmp_path / "here"
    assert [each.name for each in tmp_path.iterdir()] == ["here"]
