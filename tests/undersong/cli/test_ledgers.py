"""`undersong ledger …`: an owner reads, checks, exports and adopts the ledger of a site's folder."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from tests.services.agent.ledgers import DELTA, Site, budget, gaussian, private
from tests.shared.transparency.bundles import Federation
from undersong.cli import main
from undersong.doctor.agent import examine_agent
from undersong.shared.ids import Digest, digest_of
from undersong.shared.merkle import proofs as merkle
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.transparency.documents import LogHead, leaf_of
from undersong.shared.transparency.ledger_heads import LedgerHead, signed_head
from undersong.shared.wire.privacy import NonPrivateEvent

POLICY = {
    "federations": ["own"],
    "recipes": [],
    "datasets": {"heart": {"columns": "*"}, "lungs": {"columns": "*"}},
    "engines": [],
    "privacy": {"budgets": {"heart": {"unit": "site", "epsilon": 2, "delta": DELTA}}},
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A stopped site with one charge of budget `heart` and an exact answer of data set `lungs`."""
    urls = {f"{name}_url": "http://127.0.0.1:9" for name in ("coordinator", "aggregator", "keys", "registry")}
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(urls))
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(POLICY))
    made = Site(tmp_path)
    first, second = private(1), private(1, job_id="job_2", data={"dataset": "lungs", "features": [], "label": None})
    made.ledger.charge(first, first.digest(), gaussian(), budget(2))
    exact = second.model_copy(update={"privacy": None})
    made.ledger.charge(exact, exact.digest(), NonPrivateEvent(), budget(2))
    made.stop()
    return made


@pytest.fixture
def undersong(site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Run a command in the site's folder: exit code, output, errors."""
    monkeypatch.chdir(site.folder)
    logging = structlog.get_config()  # commands that look at a site quiet its code's log lines

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["undersong", "ledger", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield run
    structlog.configure(**logging)


def cut(site: Site) -> None:
    with closing(sqlite3.connect(site.folder / "state" / "agent.sqlite")) as db, db:
        db.execute("DROP TRIGGER charges_last")
        db.execute("DELETE FROM charges WHERE seq = 2")


def test_show_has_bars_for_budgets_and_infinity_for_exact_answers(undersong: Any) -> None:
    code, out, _ = undersong("show")
    assert code == 0
    heart, lungs = (next(line for line in out.splitlines() if line.startswith(name)) for name in ("heart", "lungs"))
    assert "████░░░░░░░░░░░░░░░░" in heart
    assert f"{epsilon_of([gaussian()], DELTA):.4g}" in heart
    assert "no budget" in lungs
    assert "∞" in lungs
    document = json.loads(undersong("show", "--json")[1])
    assert [each["left"] for each in document["accounts"]] == [
        pytest.approx(2 - epsilon_of([gaussian()], DELTA)),
        None,
    ]


def test_an_exported_ledger_is_checked_without_the_site(undersong: Any, site: Site, tmp_path: Path) -> None:
    assert undersong("export", "--out", "ledger.json")[0] == 0
    assert undersong("verify", "--file", "ledger.json")[0] == 0
    assert undersong("verify")[0] == 0
    document = json.loads((tmp_path / "ledger.json").read_text())
    document["lines"][0]["dataset"] = "lungs"
    (tmp_path / "ledger.json").write_text(json.dumps(document))
    code, _, err = undersong("verify", "--file", "ledger.json")
    assert (code, "line 1 does not hold" in err) == (1, True)
    for text in ("{}", "[]", "not JSON", '{"form": "undersong/ledger/1", "lines": [1]}'):
        (tmp_path / "ledger.json").write_text(text)
        assert undersong("verify", "--file", "ledger.json")[0] == 1


def test_a_ledger_that_was_cut_is_told_and_adopted(undersong: Any, site: Site) -> None:
    cut(site)
    code, _, err = undersong("verify")
    assert (code, "it has 1 lines and had 2" in err, "undersong ledger adopt" in err) == (1, True, True)
    assert "cannot be relied on" in undersong("show")[2]
    found = {each.subject: each for each in examine_agent(site.folder / "agent.yaml")}
    assert (found["ledger"].state, "adopt" in str(found["ledger"].remedy)) == ("fault", True)
    assert "1 lines are lost" in undersong("adopt", "--reason", "a disk was exchanged")[1]
    assert undersong("verify")[0] == 0
    assert "a disk was exchanged" in undersong("show")[1]
    assert "nothing to adopt" in undersong("adopt", "--reason", "again")[1]


def test_a_running_agent_keeps_its_ledger(undersong: Any, site: Site) -> None:
    from undersong.services.agent.loop import alone
    from undersong.services.agent.settings import load

    cut(site)
    with alone(load(site.folder / "agent.yaml")):
        code, _, err = undersong("adopt", "--reason", "because")
        assert (code, "another agent" in err) == (1, True)
        assert "cannot be relied on" in undersong("show")[2]


class Log(Federation):
    """A transparency log in memory, and what `ledger heads --json` prints of it."""

    heads: list[LedgerHead]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.heads = []

    def tell(self, lines: int, committed: Digest) -> None:
        self.heads.append(signed_head(self.identities["site_0"], lines, committed))

    def printed(self) -> dict[str, Any]:
        leaves, keys = [leaf_of(head.leaf_document()) for head in self.heads], self.identities["keys"]
        size, root = len(leaves), Digest(merkle.root(leaves).hex())
        head = LogHead(size=size, root=root, timestamp_ms=1, keyid=keys.keyid, signature="0" * 128)
        ders = [self.identities[name].certificate.public_bytes(Encoding.DER).hex() for name in ("keys", "site_0")]
        items = []
        for index, each in enumerate(self.heads):
            path = [node.hex() for node in merkle.inclusion_proof(index, size, merkle.stored(leaves))]
            proof = {"index": index, "size": size, "path": path}
            items.append({"head": each.model_dump(mode="json"), "index": index, "proof": proof})
        return {
            "format": "undersong-ledger-heads/1",
            "site_id": "site_0",
            "authority": self.ca.certificate.public_bytes(Encoding.DER).hex(),
            "certificates": ders,
            "log_head": {**head.model_dump(mode="json"), "signature": keys.private_key.sign(head.statement()).hex()},
            "items": items,
        }

    def write(self) -> tuple[str, ...]:
        """Write what is printed into the folder where commands run, and return the options that name it."""
        Path("heads.json").write_text(json.dumps(self.printed()))
        return "--against", "heads.json", "--ca", self.fingerprint


def commit(site: Site, log: Log) -> None:
    """Tell the log the head of a stopped site's ledger."""
    site.start()
    due = site.ledger.uncommitted()
    assert due is not None
    log.tell(*due)
    site.ledger.committed(due[0])
    site.stop()


def test_an_exported_ledger_is_compared_with_the_heads_that_the_log_was_told(
    undersong: Any, site: Site, tmp_path: Path
) -> None:
    log = Log()
    commit(site, log)
    against = log.write()
    assert undersong("export", "--out", "ledger.json")[0] == 0
    for words in (("verify",), ("verify", "--file", "ledger.json")):
        code, out, err = undersong(*words, *against)
        assert (code, "1 heads, the last one of 2 lines" in out) == (0, True), err
    code, _, err = undersong("verify", "--file", "ledger.json", *against[:2])
    assert (code, "--ca" in err) == (1, True), err
    document = json.loads((tmp_path / "ledger.json").read_text())
    (tmp_path / "cut.json").write_text(json.dumps({**document, "lines": document["lines"][:1]}))
    code, _, err = undersong("verify", "--file", "cut.json", *against)
    assert (code, "it had 2 lines by a head in the log, and has 1" in err) == (1, True), err
    (tmp_path / "other.json").write_text(json.dumps({**document, "head_secret": "00" * 32}))
    code, _, err = undersong("verify", "--file", "other.json", *against)
    assert (code, "it was rewritten" in err) == (1, True), err
    (tmp_path / "other.json").write_text(json.dumps({**document, "head_secret": None}))
    assert undersong("verify", "--file", "other.json", *against)[0] == 1
    assert undersong("verify", "--file", "ledger.json", *against, "--site", "site_1")[0] == 1
    for text in ("{}", "[1]", "not JSON", "null", '{"format": "undersong-ledger-heads/1"}'):
        (tmp_path / "heads.json").write_text(text)
        assert undersong("verify", *against)[0] == 1


UNPROVEN: dict[str, Callable[[dict[str, Any]], None]] = {
    "signed by another": lambda printed: printed["items"][0]["head"].update(signature="00" * 64),
    "not in the log": lambda printed: printed["items"][0]["proof"].update(path=["00" * 32]),
    "twice": lambda printed: printed["items"].insert(1, printed["items"][0]),
    "another index": lambda printed: printed["items"][1].update(index=7),
    "another order": lambda printed: printed["items"].reverse(),
    "of another site": lambda printed: printed.update(site_id="site_1"),
    "more lines": lambda printed: printed["items"][0]["head"].update(lines=2),
    "no certificate of the site": lambda printed: printed["certificates"].pop(),
    "no certificate of the log": lambda printed: printed["certificates"].pop(0),
    "another root": lambda printed: printed["log_head"].update(root="00" * 32),
    "another authority": lambda printed: printed.update(authority=Log().printed()["authority"]),
}


@pytest.mark.parametrize("how", UNPROVEN)
def test_heads_in_a_file_that_are_not_proven_are_refused(undersong: Any, site: Site, tmp_path: Path, how: str) -> None:
    """Nothing is said of the ledger by such a file, neither good nor bad."""
    log = Log()
    log.tell(1, digest_of(b"other"))
    commit(site, log)
    against, printed = log.write(), log.printed()
    assert "it was rewritten" in undersong("verify", *against)[2]
    UNPROVEN[how](printed)
    (tmp_path / "heads.json").write_text(json.dumps(printed))
    code, out, err = undersong("verify", *against)
    assert (code, "heads.json" in err, "rewritten" in err, "it keeps" in out) == (1, True, False, False), err


def test_an_adopted_ledger_is_explained_by_its_line_and_a_rewritten_one_is_not(undersong: Any, site: Site) -> None:
    """The log has a head of two lines; the second was lost, and the owner adopted the rest."""
    log = Log()
    commit(site, log)
    cut(site)
    assert undersong("adopt", "--reason", "a disk was exchanged")[0] == 0
    code, _, err = undersong("verify", *log.write())
    assert (code, "no later head here commits to that line" in err) == (1, True), "the log knows no adoption"
    commit(site, log)
    code, out, err = undersong("verify", *log.write())
    assert (code, "it keeps all else" in out) == (0, True), err
    assert "the head of 2 lines: its owner adopted it on" in err
    assert "a disk was exchanged" in err
    log.tell(4, digest_of(b"a line after the adoption, which is charged otherwise below"))
    site.start()
    manifest = private(2)
    site.ledger.charge(manifest, manifest.digest(), gaussian(), budget(9))
    site.stop()
    commit(site, log)
    code, _, err = undersong("verify", *log.write())
    assert (code, "its first 4 lines are not those" in err) == (1, True), "the adoption admits two lines"
