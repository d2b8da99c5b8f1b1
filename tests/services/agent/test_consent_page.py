"""The owner's inbox in a browser: only on its own address, only with the token, and two owners with a real agent."""

import http.client
import itertools
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.async_api import Page, async_playwright, expect
from typer.testing import CliRunner

from tests.effort import also
from tests.services.agent.conftest import AgentProcess
from tests.services.agent.fake_platform import FakePlatform
from tests.services.agent.policy.test_file import wait_for
from tests.services.agent.policy.test_owners import URLS
from tests.services.agent.test_consent import ALICE, ASKED, BOB, JOB, inbox_of, numbered, refused
from undersong.cli import app
from undersong.services.agent.consent.page import ConsentPage, PageServer
from undersong.services.agent.domain.budgets import Budget, PrivacyRule
from undersong.services.agent.settings import AgentSettings, ConfigError, ConsentPageSettings
from undersong.shared.identity.owner import OwnerKey, sign_policy
from undersong.shared.wire.privacy import PrivacyUnit

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or set CHROMIUM"),
]
BUDGET = PrivacyRule(budgets={"heart": (Budget(PrivacyUnit.SITE, 4.0, 1e-6, 365),)})
expect.set_options(timeout=30_000)  # a machine that is busy with other tests opens keys slowly
HOSTILE = '<img src=x onerror="document.title=1">'


class Served:
    """A page over a real inbox, and requests to it as any program on the machine can make them."""

    def __init__(self, folder: Path) -> None:
        self.inbox = inbox_of(folder)
        self.key = folder / "alice.pem"
        ALICE.save(self.key, b"secret words")
        page = ConsentPageSettings(keys=[self.key])
        settings = AgentSettings(data_dir=folder / "state", policy=folder / "policy.yaml", consent_page=page, **URLS)
        self.policy = replace(ASKED, privacy=BUDGET)
        self.page = ConsentPage(settings, page, self.inbox.store, self.inbox, lambda: self.policy)
        self.server = PageServer(self.page, 0, folder / "state")
        self.host = self.server.address.split("/")[2]
        self.token = self.page.token

    def ask(self, path: str, body: Any = None, **changes: str | None) -> tuple[int, Any]:
        """Ask as the page does; `changes` exchanges headers, or leaves them out (None)."""
        headers = {"Authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers |= {"Origin": f"http://{self.host}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection(self.host, timeout=10)
        connection.putrequest("GET" if data is None else "POST", path, skip_host=True)
        told = {"Host": self.host, **headers, **{name.replace("_", "-"): value for name, value in changes.items()}}
        if data is not None:
            told.setdefault("Content-Length", str(len(data)))
        for name, value in told.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        text = answer.read()
        connection.close()
        kind = answer.headers["Content-Type"]
        return answer.status, json.loads(text) if kind == "application/json" else text


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.server.close()
    made.inbox.store.close()
    assert not (tmp_path / "state" / "consent-page").exists()


def test_only_who_has_the_token_and_comes_from_the_page_itself_is_answered(served: Served, tmp_path: Path) -> None:
    refused(served.inbox, numbered(1), "consent-waiting")
    (entry,) = served.inbox.entries()
    file = tmp_path / "state" / "consent-page"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().strip() == served.server.address
    assert served.ask("/")[0] == 200
    assert served.ask("/api/requests")[1]["requests"][0]["name"] == "heart"
    one, decide = f"/api/requests/{entry.digest}", f"/api/requests/{entry.digest}/decisions"
    assert served.ask(one)[0] == 200
    good = {"decision": "approve", "key": "alice.pem", "passphrase": "secret words", "job_name": "heart"}
    port = served.host.split(":")[1]
    for path, body, changes, status in (
        (one, None, {"Authorization": None}, 401),
        (one, None, {"Authorization": "Bearer x"}, 401),
        (one, None, {"Authorization": f"Bearer {served.token}é"}, 401),
        (one, None, {"Host": f"evil.example:{port}"}, 421),
        ("/", None, {"Host": "evil.example"}, 421),
        (decide, good, {"Host": f"localhost:{port}"}, 421),
        (decide, good, {"Origin": None}, 403),
        (decide, good, {"Origin": "https://evil.example"}, 403),
        (decide, good, {"Origin": "null"}, 403),
        (decide, good, {"Content_Type": "text/plain"}, 415),
        (decide, good, {"Content_Type": None}, 415),
        (decide, good, {"Authorization": None}, 401),
        (decide, good, {"Content_Length": None}, 411),
        (decide, good, {"Content_Length": "99999999"}, 413),
        (decide, good, {"Content_Length": "²".encode("latin-1")}, 411),
        (decide, good, {"Content_Length": "9" * 5000}, 411),
        (decide, {**good, "more": 1}, {}, 422),
        (decide, {**good, "decision": "allow"}, {}, 422),
        (decide, {**good, "runs": 0}, {}, 422),
        (decide, {**good, "runs": "2"}, {}, 200),
        (decide, {**good, "until": "2020-01-01"}, {}, 409),
        (decide, {**good, "key": "../alice.pem"}, {}, 422),
        (decide, {**good, "passphrase": "other"}, {}, 403),
        (decide, {**good, "job_name": "hearts"}, {}, 422),
        (f"/api/requests/{'0' * 64}", None, {}, 404),
        ("/../policy.yaml", None, {}, 404),
        (f"{decide}/decisions", good, {}, 404),
    ):
        found, told = served.ask(path, body, **changes)  # type: ignore[arg-type]
        assert found == status, (path, changes, told)
        if status != 200:
            assert "secret words" not in str(told)
    assert served.ask("/api/requests", None, Host=served.host)[0] == 200
    for line in (
        b"PUT / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00\xff\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection(served.host.split(":"), timeout=10) as raw:
            raw.sendall(line)
            answer = raw.makefile("rb").read()
        assert b"The page has no such request" in answer
        assert b"<" not in answer


def test_many_requests_are_listed_page_by_page(served: Served) -> None:
    for number in range(1, 4):
        refused(served.inbox, numbered(1, job_id=f"job_{number}"), "consent-waiting")
    newest = [entry.digest for entry in served.inbox.entries()]
    for most, more in ((1, True), (2, True), (3, False), (1000, False)):
        status, found = served.ask(f"/api/requests?most={most}")
        assert (status, [each["digest"] for each in found["requests"]], found["more"]) == (200, newest[:most], more)
    assert served.ask("/api/requests")[1]["more"] is False
    for wrong in ("0", "1001", "-1", "", "1&most=2", "1.0"):
        assert served.ask(f"/api/requests?most={wrong}")[0] == 404


def test_connections_that_say_nothing_are_hung_up_on_beyond_a_number(served: Served) -> None:
    """Anyone on the machine can connect; the agent's threads and files stay for its work."""
    before = threading.active_count()
    idle = [socket.create_connection(served.host.split(":"), timeout=10) for _ in range(36)]
    assert [each.recv(1) for each in idle[32:]] == [b""] * 4
    assert threading.active_count() <= before + 32
    for each in idle:
        each.close()
    for _ in range(200):
        with suppress(OSError, http.client.HTTPException):
            if served.ask("/")[0] == 200:
                break
        time.sleep(0.02)
    assert served.ask("/api/requests")[0] == 200


def test_a_port_in_use_is_told_by_name(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose another"):
        PageServer(served.page, int(served.host.split(":")[1]), tmp_path)


@pytest.mark.browser
@BROWSER[1]
@pytest.mark.parametrize(("size", "scheme"), [((1280, 900), "light"), *also(((390, 844), "dark"))])
async def test_the_page_shows_what_differs_and_takes_a_decision_by_keyboard(
    served: Served, tmp_path: Path, size: tuple[int, int], scheme: Any
) -> None:
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        viewport = {"width": size[0], "height": size[1]}
        context = await browser.new_context(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
        page = await context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        await page.goto(served.server.address)
        await expect(page.locator("#request")).to_contain_text("Nothing waits for you")
        await page.screenshot(path=tmp_path / "empty.png")
        assert served.token not in page.url
        refused(served.inbox, numbered(1), "consent-waiting")
        served.inbox.decide(served.inbox.entries()[0].digest, ALICE, "approve")
        changed = {**JOB, "reason": HOSTILE, "planned": [{"kind": "train", "rounds": 5}]}
        refused(served.inbox, numbered(1, request=changed), "consent-waiting")
        await page.wait_for_selector("tr.changed")
        texts = await page.locator("tr.changed th").all_inner_texts()
        assert [text.split(" (")[0] for text in texts] == ["reason", "rounds", "clip norm", "noise"]
        assert HOSTILE in await page.locator("article table").inner_text()
        assert await page.locator("article img").count() == 0
        await page.screenshot(path=tmp_path / "changed.png", full_page=True)
        wide = await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        assert not wide
        await page.focus("#list button >> nth=0")
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("ArrowUp")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("input[name=passphrase]")
        await page.focus("input[name=passphrase]")
        await page.keyboard.type("wrong words")
        await page.keyboard.press("Enter")
        await expect(page.locator("#error")).to_contain_text("type the job's name", ignore_case=True)
        await page.focus("input[name=job_name]")
        await page.keyboard.type("heart")
        await page.focus("input[name=passphrase]")
        await page.keyboard.type("wrong words")
        await page.keyboard.press("Enter")
        await expect(page.locator("#error")).to_contain_text("does not open this key")
        await page.screenshot(path=tmp_path / "error.png", full_page=True)
        await page.focus("input[name=runs]")
        await page.keyboard.type("2")
        await page.focus("input[name=passphrase]")
        await page.keyboard.type("secret words")
        await page.keyboard.press("Enter")
        await expect(page.locator("article h2 .badge")).to_have_text("approved, 2 left")
        await expect(page.locator("#error")).to_be_hidden()
        await page.screenshot(path=tmp_path / "approved.png", full_page=True)
        served.inbox.check(served.policy, numbered(1, request=changed))
        await expect(page.locator("article h2 .badge")).to_have_text("active, 1 left", timeout=10_000)
        served.server.close()
        await expect(page.locator("#live")).to_have_text("Not up to date", timeout=20_000)
        assert faults == []
        await browser.close()


@pytest.mark.process
@pytest.mark.browser
@BROWSER[1]
async def test_two_owners_decide_in_the_middle_of_a_job(
    make_agent: Callable[..., AgentProcess], platform: FakePlatform, tmp_path: Path
) -> None:
    """At a real agent: both approve, one revokes between two rounds; what the platform signs approves nothing."""
    words = {"alice": (ALICE, "of alice"), "bob": (BOB, "of bob")}
    for name, (key, phrase) in words.items():
        key.save(tmp_path / f"{name}.pem", phrase.encode())
    agent = make_agent(
        owners={"keys": [ALICE.public, BOB.public], "need": 2},
        consent_page={"port": 0, "keys": [str(tmp_path / f"{name}.pem") for name in words]},
    )
    policy = agent.folder / "policy.yaml"
    text = yaml.safe_dump({**agent.policy, "consent": "new"}).encode()
    policy.write_bytes(text)
    for key, _ in words.values():
        sign_policy(policy, text, key, 1000)
    agent.start()
    wait_for(lambda: (agent.folder / "state" / "consent-page").exists())
    config = ["--config", str(agent.folder / "agent.yaml")]
    address = CliRunner().invoke(app, ["consent", "page", *config]).stdout.strip()
    assert address not in agent.log(), "the token is a secret"
    numbers = itertools.count(1)
    job = {"name": "heart", "requester": "mara", "planned": [{"kind": "train", "rounds": 9}]}

    def offer() -> str:
        before = len(platform.ended)
        at = {"job_id": "job_consent", "model_id": "mdl_1", "request": job, "number": next(numbers)}
        platform.offer(platform.manifest(agent.recipe, model_ref=platform.add_model([1.0, 2.0, 3.0]), **at))
        platform.wait(lambda: len(platform.ended) > before)
        end, told = platform.ended[-1]
        return str(told.get("code") or end.split(":")[0])

    async def decide(page: Page, name: str, button: str, badge: str) -> None:
        await page.select_option("select[name=key]", f"{name}.pem")
        await page.fill("input[name=passphrase]", words[name][1])
        await page.click(f"button[value={button}]")
        await expect(page.locator("article h2 .badge")).to_have_text(badge)

    assert offer() == "consent-waiting"
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page()
        await page.goto(address)
        await expect(page.locator("article h2 .badge")).to_have_text("waits, 0 of 2")
        await decide(page, "alice", "approve", "waits, 1 of 2")
        forged = OwnerKey(platform.coordinator.private_key)
        assert forge(agent, forged)
        assert offer() == "consent-waiting"
        await decide(page, "bob", "approve", "approved, 9 left")
        platform.wait(lambda: platform.profiles[-1]["consents"] == [], 20)
        assert offer() == "completions"
        await decide(page, "alice", "revoke", "revoked")
        assert offer() == "consent-denied"
        await decide(page, "bob", "approve", "waits, 1 of 2")
        await decide(page, "alice", "approve", "active, 8 left")
        platform.wait(lambda: platform.profiles[-1]["consents"] == [], 20)
        assert offer() == "completions"
        await browser.close()
    assert not agent.events("ledger.damaged"), "the page reads the ledger that the agent writes"
    agent.kill()


def forge(agent: AgentProcess, key: OwnerKey) -> bool:
    """Store an approval that another key signed in Bob's name, as one who can write the database could."""
    from undersong.services.agent.consent.inbox import Inbox
    from undersong.services.agent.consent.rules import Decision, SignedDecision
    from undersong.services.agent.policy.owners import OwnerMark
    from undersong.services.agent.repository.store import Store

    store = Store(agent.folder / "state")
    inbox = Inbox(store, None, OwnerMark(agent.folder / "high-water.owner"))
    (entry,) = inbox.entries()
    made = Decision(decision="approve", request=entry.digest, number=99, at_ms=1, key=BOB.public)
    inbox.keep(SignedDecision.by(key, made))
    inbox.keep(SignedDecision.by(key, made.model_copy(update={"key": key.public})))
    store.close()
    return True
