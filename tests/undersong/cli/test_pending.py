"""`undersong pending`: commands that ask where a second person is needed; what waits, confirmed and withdrawn."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from undersong import cli
from undersong.profile import save_profile

Run = Callable[..., tuple[int, str, str]]
SITE = {"id": "site_1", "name": "north", "federation_id": "fed_1"}
NEEDED = {"type": "urn:undersong:problem:second-person-needed", "title": "", "status": 409, "detail": "two persons"}
WAITS = {
    "id": "act_1", "action": "site.suspend", "subject": "site_1", "name": "north", "state": "waiting",
    "requester": "ann", "expires_at": "2030-01-01T00:00:00Z", "mine": True,
}  # fmt: skip


@pytest.fixture
def run(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("UNDERSONG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(cli.common.console, "width", 200)
    save_profile(server.profile)
    page = {"items": [SITE], "next": None}
    server.say("GET /v1/sites", page)
    server.say("GET /v1/users", {"items": [{"id": "usr_1", "name": "sam"}], "next": None})
    server.say("GET /v1/federations", {"items": [{"id": "fed_1", "name": "heart"}], "next": None})
    server.say("POST /v1/pending-actions", WAITS, 201)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["undersong", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return call


@pytest.mark.parametrize(
    ("words", "route", "asked"),
    [
        (("site", "suspend", "north"), "POST /v1/sites/site_1/suspension", ("site.suspend", "site_1", {})),
        (("user", "revoke", "sam"), "DELETE /v1/users/usr_1", ("user.revoke", "usr_1", {})),
        (("token", "revoke", "tok_1"), "DELETE /v1/tokens/tok_1", ("token.revoke", "tok_1", {})),
        (("user", "roles", "sam", "--role", "owner:heart", "--role", "auditor"), "PUT /v1/users/usr_1/roles",
         ("user.roles", "usr_1", {"roles": [{"role": "owner", "federation_id": "fed_1"},
                                            {"role": "auditor", "federation_id": None}]})),
    ],
)  # fmt: skip
def test_what_takes_two_is_asked_for(run: Run, server: Any, words: Any, route: str, asked: Any) -> None:
    server.say(route, NEEDED, 409)
    code, out, _ = run(*words)
    assert code == 0
    assert "waits for a second person until 2030-01-01 00:00 UTC" in out
    assert "next: another person of the role: undersong pending confirm act_1" in out
    body = json.loads(next(sent for method, path, _, sent in server.seen if path == "/v1/pending-actions"))
    assert (body["action"], body["subject"], body["data"]) == asked


def test_one_person_does_the_rest(run: Run, server: Any) -> None:
    server.say("POST /v1/sites/site_1/suspension", SITE)
    assert "site north is suspended" in run("site", "suspend", "north")[1]
    server.say("DELETE /v1/users/usr_1", b"", 204)
    assert "user sam is revoked" in run("user", "revoke", "sam")[1]
    assert not [path for _, path, *_ in server.seen if "pending" in path]
    assert "no role is called 'king'" in run("user", "roles", "sam", "--role", "king")[2]


def test_what_waits_is_listed_confirmed_and_withdrawn(run: Run, server: Any) -> None:
    over = {**WAITS, "id": "act_2", "state": "expired", "mine": False}
    server.say("GET /v1/pending-actions", {"items": [WAITS, over], "next": None})
    listed = run("pending", "list")[1]
    assert "ann (you)" in listed
    assert "act_2" not in listed
    assert "act_2" in run("pending", "list", "--all")[1]
    server.say("POST /v1/pending-actions/act_1/confirmation", {**WAITS, "state": "confirmed"})
    assert "site.suspend of north is confirmed" in run("pending", "confirm", "act_1")[1]
    server.say("DELETE /v1/pending-actions/act_1", {**WAITS, "state": "withdrawn"})
    assert "is withdrawn" in run("pending", "withdraw", "act_1")[1]
    assert "no such change" in run("pending", "request", "site.remove", "site_1")[2]
