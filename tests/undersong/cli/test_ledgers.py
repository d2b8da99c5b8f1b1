"""`undersong ledger …`: an owner reads, checks, exports and adopts the ledger of a site's folder."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from tests.services.agent.ledgers import DELTA, Site, budget, gaussian, private
from undersong.cli import main
from undersong.doctor.agent import examine_agent
from undersong.shared.privacy.accounting import epsilon_of
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


def test_an_exported_ledger_is_compared_with_the_heads_that_the_log_was_told(
    undersong: Any, site: Site, tmp_path: Path
) -> None:
    site.start()
    due = site.ledger.uncommitted()
    assert due is not None
    lines, committed = due
    site.ledger.committed(lines)
    site.stop()
    told = {"federation_id": "fed_x", "site_id": "site_0", "keyid": "0" * 64, "signature": "0" * 128}
    head = {"head": {**told, "lines": lines, "commitment": committed}, "index": 9}
    (tmp_path / "heads.json").write_text(json.dumps([head]))
    assert undersong("export", "--out", "ledger.json")[0] == 0
    for words in (("verify",), ("verify", "--file", "ledger.json")):
        code, out, err = undersong(*words, "--against", "heads.json")
        assert (code, "1 heads, the last one of 2 lines" in out) == (0, True), err
    document = json.loads((tmp_path / "ledger.json").read_text())
    (tmp_path / "cut.json").write_text(json.dumps({**document, "lines": document["lines"][:1]}))
    code, _, err = undersong("verify", "--file", "cut.json", "--against", "heads.json")
    assert (code, "it had 2 lines by a head in the log, and has 1" in err) == (1, True), err
    (tmp_path / "other.json").write_text(json.dumps({**document, "head_secret": "00" * 32}))
    code, _, err = undersong("verify", "--file", "other.json", "--against", "heads.json")
    assert (code, "it was rewritten" in err) == (1, True), err
    (tmp_path / "other.json").write_text(json.dumps({**document, "head_secret": None}))
    assert undersong("verify", "--file", "other.json", "--against", "heads.json")[0] == 1
    assert undersong("verify", "--file", "ledger.json", "--against", "heads.json", "--site", "site_1")[0] == 1
    (tmp_path / "two.json").write_text(json.dumps([head, {**head, "head": {**head["head"], "site_id": "site_1"}}]))
    code, _, err = undersong("verify", "--file", "ledger.json", "--against", "two.json")
    assert (code, "--site" in err) == (1, True), err
    for text in ("{}", "[1]", "not JSON", "null"):
        (tmp_path / "heads.json").write_text(text)
        assert undersong("verify", "--against", "heads.json")[0] == 1
