"""`undersong evidence` and `undersong verify`: plain words, JSON, exit codes; offline means no request at all."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.shared.transparency.bundles import Federation
from undersong import cli
from undersong.profile import save_profile
from undersong.shared.ids import Digest
from undersong.shared.merkle import proofs as merkle
from undersong.shared.transparency.documents import LogHead, head_statement

Run = Callable[..., tuple[int, str, str]]
FEDERATION = Federation()
BUNDLE = FEDERATION.bundle()
SEALED = FEDERATION.bundle("train", "sealed")


@pytest.fixture
def run(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("UNDERSONG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.common.console, "width", 100)
    save_profile(server.profile)
    server.say("GET /v1/evidence/rnd_train", BUNDLE.model_dump(mode="json"))
    server.say("GET /v1/authority", {"certificate_pem": "", "fingerprint": FEDERATION.fingerprint})
    server.say("GET /v1/log/head", BUNDLE.logged.head.model_dump(mode="json"))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["undersong", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return call


def test_evidence_is_written_and_verifies_without_the_platform(run: Run, server: Any, tmp_path: Path) -> None:
    code, out, _ = run("evidence", "rnd_train", "-o", "e.json")
    assert (code, "undersong verify rnd_train" in out) == (0, True)
    assert (tmp_path / "e.json").read_bytes() == BUNDLE.pack()
    server.seen.clear()
    code, out, _ = run("verify", "rnd_train", "--evidence", "e.json", "--ca", FEDERATION.fingerprint)
    assert code == 0
    assert "verified: all 20 checks passed" in out
    assert "Masks hid each update from every service" in out
    assert len(out.splitlines()) <= 30
    assert server.seen == []


@pytest.mark.parametrize("name", ["heart-disease", "heart-disease:3", "heart:champion", "job_1"])
def test_a_name_is_refused_offline_and_looks_like_no_tampering(
    run: Run, server: Any, tmp_path: Path, name: str
) -> None:
    (tmp_path / "e.json").write_bytes(BUNDLE.pack())
    code, out, err = run("verify", name, "--evidence", "e.json", "--ca", FEDERATION.fingerprint)
    assert (code, out, server.seen) == (1, "", [])
    assert f"only an id can be checked; the file says that it is about {BUNDLE.subject}" in err
    (tmp_path / "e.json").write_text("no evidence")
    assert "only an id can be checked" in run("verify", name, "--evidence", "e.json")[2]


def test_a_changed_file_is_not_verified(run: Run, tmp_path: Path) -> None:
    text = BUNDLE.pack().decode()
    digest = BUNDLE.logged.record.sum_digest
    (tmp_path / "e.json").write_text(text.replace(digest, "6" * 64))
    code, out, _ = run("verify", "rnd_train", "--evidence", "e.json", "--ca", FEDERATION.fingerprint)
    assert code == 1
    assert "NOT verified: 3 of 20 checks failed" in out
    (tmp_path / "e.json").write_text(text.replace(" ", "  ", 1))
    code, out, _ = run("verify", "rnd_train", "--evidence", "e.json", "--ca", FEDERATION.fingerprint, "--json")
    found = json.loads(out)
    assert (code, found["verified"], [each["check"] for each in found["checks"]]) == (1, False, ["file"])


def test_a_file_proves_nothing_without_a_pinned_authority(run: Run, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_bytes(BUNDLE.pack())
    code, out, _ = run("verify", "ver_2", "--evidence", "e.json", "--json")
    found = json.loads(out)
    assert (code, found["authority"]) == (1, FEDERATION.fingerprint)
    assert [each["check"] for each in found["checks"] if not each["passed"]] == ["authority"]


def test_a_sealed_round_is_verified_and_called_weak(run: Run, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_bytes(SEALED.pack())
    code, out, _ = run("verify", "rnd_train", "--evidence", "e.json", "--ca", FEDERATION.fingerprint)
    assert code == 0
    assert "the aggregator could see every single update" in " ".join(out.split())


def test_what_the_platform_gives_now_is_checked_with_its_log(run: Run) -> None:
    code, out, _ = run("verify", "rnd_train", "--json")
    found = json.loads(out)
    assert (code, found["verified"]) == (0, True)
    checks = {each["check"]: each for each in found["checks"]}
    assert checks["authority"]["caution"]
    assert "--ca" in checks["authority"]["sentence"]
    assert checks["log-now"]["passed"]
    code, out, _ = run("verify", "rnd_train", "--ca", "0" * 64)
    assert code == 1


def head_over(leaves: list[bytes]) -> dict[str, Any]:
    signer, root, at = FEDERATION.identities["keys"], merkle.root(leaves), BUNDLE.logged.head.timestamp_ms + 1
    signature = signer.private_key.sign(head_statement(len(leaves), root, at)).hex()
    head = LogHead(
        size=len(leaves), root=Digest(root.hex()), timestamp_ms=at, keyid=signer.keyid, signature=signature
    )  # fmt: skip
    return head.model_dump(mode="json")


def test_a_rewritten_log_is_noticed(run: Run, server: Any) -> None:
    server.answers.pop("GET /v1/log/head")
    leaves = [merkle.leaf_hash(b"%d" % i) for i in range(9)]
    server.say("GET /v1/log/head", head_over(leaves))
    path = [
        each.hex() for each in merkle.consistency_proof(7, 9, lambda start, end: merkle.root(leaves[start:end]))
    ]  # fmt: skip
    server.say("GET /v1/log/proofs/consistency?first=7&second=9", {"first": 7, "second": 9, "path": path})
    code, out, _ = run("verify", "rnd_train", "--ca", FEDERATION.fingerprint, "--json")
    failed = [each["check"] for each in json.loads(out)["checks"] if not each["passed"]]
    assert (code, failed) == (1, ["log-now"])
