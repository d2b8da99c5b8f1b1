"""Both clients against a real HTTP server: typed answers, refusals as exceptions, repeats with one idempotency key."""

import hashlib
import importlib
import inspect
import json
import pkgutil
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from undersong import unasync
from undersong.client import ApiError, AsyncClient, Client, UndersongError, UnreachableError, calls, wire
from undersong.client.types import Job
from undersong.datamap import datamap_of
from undersong.profile import Profile
from undersong.shared.clock import utc_now
from undersong.shared.identity.transport import TransportAuthority

JOB = {"id": "job_1", "name": "j", "federation_id": "fed_1", "state": "running", "spec": {"rounds": 2}}


@pytest.mark.parametrize("begun", [False, True])
def test_the_data_map_of_a_private_job_that_has_not_trained_yet(server: Any, begun: bool) -> None:
    """The round that standardises columns is exact; what the job promises of training is not changed by that."""
    terms = {"model": "distributed", "unit": "site", "noise_multiplier": 5.0, "delta": 1e-6, "epsilon": 4.0,
             "rounds": 10, "min_sites": 3, "colluding": 0}  # fmt: skip
    spec = {"engine": "pairwise", "model": {"name": "heart"}, "recipe": {"name": "tabular"}, "evaluation": {"every": 0}}
    rounds = [{"id": "rnd_1", "job_id": "job_1", "number": 0, "kind": "statistics", "phase": "open"}]
    profile = {"recipes": [{"name": "tabular", "statistics": True}]}
    server.say("GET /v1/jobs/job_1/rounds", {"items": rounds if begun else [], "next": None})
    server.say("GET /v1/jobs/job_1/participation", {"items": [], "next": None})
    site = {"id": "site_1", "name": "north", "federation_id": "fed_1", "profile": profile}
    server.say("GET /v1/sites?federation_id=fed_1", {"items": [site], "next": None})
    with Client(server.profile) as client:
        found = datamap_of(client, Job.model_validate({**JOB, "spec": spec, "privacy": terms}))
    assert found.noise.startswith("epsilon 4 at delta 1e-06")
    assert [flow.form for flow in found.results] == ["the model's parameters, made of the opened sums (with noise)"]
    assert "sums that standardise columns" in {flow.what for flow in found.flows}


def test_lists_are_read_to_their_end(server: Any) -> None:
    one, two = ({"id": f"fed_{i}", "name": str(i)} for i in (1, 2))
    server.say("GET /v1/federations", {"items": [one], "next": "fed_1"})
    server.say("GET /v1/federations?after=fed_1", {"items": [two], "next": None})
    with Client(server.profile) as client:
        assert [federation.name for federation in client.federations()] == ["1", "2"]


def test_a_repeat_carries_the_same_idempotency_key(server: Any) -> None:
    server.say("POST /v1/jobs", {"detail": "wait"}, 503, retry_after="0")
    server.say("POST /v1/jobs", JOB, 201)
    with Client(server.profile) as client:
        assert client.submit_job({"name": "j", "federation_id": "fed_1"}).id == "job_1"
    keys = {headers["idempotency-key"] for _, _, headers, _ in server.seen}
    assert len(server.seen) == 2
    assert len(keys) == 1


def test_a_refusal_carries_every_fault(server: Any) -> None:
    problem = {
        "type": "https://undersong.dev/problems/invalid",
        "title": "Invalid",
        "detail": "2 faults",
        "errors": [{"path": "/rounds", "message": "too few"}, {"path": "/data", "message": "missing"}],
    }
    server.say("POST /v1/jobs", problem, 422)
    with Client(server.profile) as client, pytest.raises(ApiError) as refusal:
        client.submit_job({"federation_id": "fed_1"})
    assert (refusal.value.status, refusal.value.slug) == (422, "invalid")
    assert refusal.value.errors == (("/rounds", "too few"), ("/data", "missing"))


def test_keys_gets_the_operators_token_and_others_the_users(server: Any) -> None:
    server.say(
        "POST /v1/enrolment-tokens", {"token_id": "tok_1", "token": "x", "expires_at": "2030-01-01T00:00:00Z"}, 201
    )
    server.say("GET /v1/me", {"id": "usr_1"})
    with Client(server.profile) as client:
        client.create_enrolment_token("site", "site_1", "fed_1")
        client.me()
    assert [headers["authorization"] for _, _, headers, _ in server.seen] == ["Bearer o", "Bearer t"]


def test_ids_cannot_change_the_path(server: Any) -> None:
    server.say("GET /v1/jobs/..%2Fusers", JOB)
    with Client(server.profile) as client:
        client.job("../users")


def test_an_answer_of_an_unknown_shape_is_one_clear_error(server: Any) -> None:
    server.say("GET /v1/jobs/job_1", {"unexpected": True})
    with Client(server.profile) as client, pytest.raises(ApiError, match="unknown shape"):
        client.job("job_1")


def test_nothing_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "delay_s", lambda *_: 0.0)
    with (
        Client(Profile(coordinator_url="http://127.0.0.1:9")) as client,
        pytest.raises(UnreachableError, match="doctor"),
    ):
        client.jobs()


def test_a_certificate_that_is_not_believed_is_asked_for_once(tmp_path: Path) -> None:
    """Trying again would only keep a user waiting who has named the wrong authority."""
    theirs, ours = (TransportAuthority.ensure(tmp_path / name, utc_now()) for name in ("theirs", "ours"))
    assert theirs.certificate_pem != ours.certificate_pem
    (tmp_path / "server.pem").write_bytes(theirs.issue(("127.0.0.1",), utc_now()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    handshakes: list[str] = []

    def refuse(listener: socket.socket) -> None:
        with suppress(OSError):  # at the end the listener is closed under it
            while True:
                raw, _ = listener.accept()
                with raw, suppress(ssl.SSLError):
                    context.wrap_socket(raw, server_side=True).close()
                handshakes.append("one")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        waiter = threading.Thread(target=refuse, args=(listener,), daemon=True)
        waiter.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        profile = Profile(coordinator_url=url, ca_file=str(tmp_path / "ours" / "ca.pem"))
        with Client(profile) as client, pytest.raises(UnreachableError):
            client.jobs()
        listener.shutdown(socket.SHUT_RDWR)
        waiter.join(timeout=30)
    assert handshakes == ["one"]


def test_following_a_job_ends_with_its_last_event(server: Any) -> None:
    stream = b"id: 1\nevent: round.published\ndata: {}\n\n: still there\n\nid: 2\nevent: job.succeeded\ndata: {}\n\n"
    server.say("GET /v1/jobs/job_1/events", stream)
    with Client(server.profile) as client:
        assert [event.type for event in client.follow("job_1")] == ["round.published", "job.succeeded"]
    assert len(server.seen) == 1


def test_following_resumes_behind_the_last_event(server: Any) -> None:
    server.say("GET /v1/jobs/job_1/events", b"id: 1\nevent: round.planned\ndata: {}\n\n")
    server.say("GET /v1/jobs/job_1/events", b"id: 2\nevent: job.failed\ndata: {}\n\n")
    server.say("GET /v1/jobs/job_1", JOB)
    with Client(server.profile) as client:
        assert [event.id for event in client.follow("job_1")] == ["1", "1", "2"]
    asked = [headers.get("last-event-id") for _, path, headers, _ in server.seen if path.endswith("/events")]
    assert asked == [None, "1"]


def test_following_polls_while_the_event_stream_is_refused(server: Any) -> None:
    for state in ("running", "succeeded"):
        server.say("GET /v1/jobs/job_1", {**JOB, "state": state})
    server.say("GET /v1/jobs/job_1/events", {"title": "No"}, 500)
    with Client(server.profile) as client:
        assert client.wait("job_1").state == "succeeded"


def test_following_outlasts_an_absence_however_long_the_job_was_followed_before(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience counts from the last event, and what asks about that event may fail as well."""
    server.say("GET /v1/jobs/job_1/events", b"id: 1\nevent: round.planned\ndata: {}\n\n")
    server.say("GET /v1/jobs/job_1/events", b"id: 2\nevent: job.paused\ndata: {}\n\n")
    server.say("GET /v1/jobs/job_1/events", b"id: 3\nevent: job.succeeded\ndata: {}\n\n")
    server.say("GET /v1/jobs/job_1", {**JOB, "state": "running"})
    away = UnreachableError("the coordinator does not answer")
    with Client(server.profile) as client:
        send, answers = client.send, [away, away, None]

        def asked(call: Any, **more: Any) -> Any:
            if answers and answers.pop(0) is not None:
                raise away
            return send(call, **more)

        monkeypatch.setattr(client, "send", asked)
        monkeypatch.setattr(wire, "PATIENCE_S", 1.0)
        seen = []
        for event in client.follow("job_1", poll_s=0.01):
            seen.append(event.type)
            if event.type == "round.planned":
                time.sleep(1.2)  # longer than patience, while the platform answers
    assert seen == ["round.planned", "job.unheard", "job.paused", "job.polled", "job.succeeded"]


def test_following_says_once_that_nothing_answers_and_ends_after_its_patience(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "PATIENCE_S", 0.3)
    monkeypatch.setattr(wire, "ATTEMPTS", 1)
    lost = Profile(coordinator_url="http://127.0.0.1:9", token="t")
    with Client(lost) as client:
        events = client.follow("job_1", poll_s=0.05)
        assert next(events).type == "job.unheard"
        with pytest.raises(UnreachableError):
            next(events)


def test_following_a_job_that_does_not_exist_is_a_refusal(server: Any) -> None:
    server.say("GET /v1/jobs/job_1/events", {"title": "Not found"}, 404)
    with Client(server.profile) as client, pytest.raises(ApiError):
        list(client.follow("job_1"))


def test_a_download_with_other_bytes_leaves_no_file(server: Any, tmp_path: Path) -> None:
    version = {"id": "ver_1", "model_id": "mdl_1", "number": 1, "content_digest": hashlib.sha256(b"model").hexdigest()}
    server.say("GET /v1/versions/ver_1", version)
    server.say("GET /v1/versions/ver_1/content", b"model")
    with Client(server.profile) as client:
        client.download("ver_1", tmp_path / "good")
        server.answers["GET /v1/versions/ver_1/content"] = []
        server.say("GET /v1/versions/ver_1/content", b"other")
        with pytest.raises(UndersongError, match="digest"):
            client.download("ver_1", tmp_path / "bad")
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


async def test_the_async_client_does_the_same(server: Any) -> None:
    server.say("GET /v1/jobs?after=job_1", {"items": [], "next": None})
    server.say("GET /v1/jobs", {"items": [JOB], "next": "job_1"})
    server.say("GET /v1/jobs/job_1", {**JOB, "state": "cancelled"})
    server.say("GET /v1/jobs/job_1/events", b"id: 7\nevent: job.cancelled\ndata: {}\n\n")
    async with AsyncClient(server.profile) as client:
        assert [job.id for job in await client.jobs()] == ["job_1"]
        assert (await client.wait("job_1")).state == "cancelled"


def test_event_lines_become_events() -> None:
    parser = wire.EventParser()
    lines = ["id: 3", "event: a", 'data: {"data":', 'data: {"x": 1}}', "", ": comment", "", "data: plain", ""]
    events = [event for line in lines for event in parser.feed(line)]
    assert [(event.id, event.type, event.data) for event in events] == [("3", "a", {"x": 1}), ("3", "message", {})]


def test_both_clients_offer_the_same_calls() -> None:
    """Same methods, same signatures, same docstrings; only what awaits differs."""
    sync, awaited = (
        [name for name, _ in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")]
        for client in (Client, AsyncClient)
    )
    assert sync == awaited
    assert len(sync) >= 45
    for name in (*sync, "__init__"):
        one, other = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.getdoc(one) == inspect.getdoc(other), name
        assert str(inspect.signature(one)) == as_sync(str(inspect.signature(other))), name
    assert inspect.getdoc(Client) == as_sync(inspect.getdoc(AsyncClient) or "")


def as_sync(text: str) -> str:
    for awaited, sync in (("AsyncClient", "Client"), ("AsyncBase", "Base"), ("Event, None]", "Event, None, None]")):
        text = text.replace(awaited, sync)
    return text.replace("async with", "with").replace("AsyncGenerator", "Generator")


def test_the_sync_client_is_generated_from_the_async_one() -> None:
    """Every file is what `make client` writes, and there is no other."""
    generated = {path.name: path.read_text() for path in unasync.TARGET.glob("*.py")}
    assert generated == {
        path.name: unasync.translated(path.read_text(), path.name) for path in unasync.SOURCE.glob("*.py")
    }


def test_every_call_has_a_method_in_both_clients() -> None:
    """Each area's requests are made by the methods of the same area."""
    areas = [each.name for each in pkgutil.iter_modules(calls.__path__) if each.name != "call"]
    assert len(areas) > 4
    for area in areas:
        module = importlib.import_module(f"undersong.client.calls.{area}")
        source = inspect.getsource(importlib.import_module(f"undersong.client.aio.{area}"))
        offered = [
            name for name, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__
        ]
        assert offered
        assert not [name for name in offered if f"calls.{name}(" not in source and f"calls.{name})" not in source]


@pytest.mark.parametrize(
    ("federation", "spec", "sent"),
    [
        ("heart", {}, "fed_1"),
        ("fed_2", {"federation": "heart"}, "fed_2"),
        (None, {"federation": "lungs"}, "fed_2"),
        (None, {"federation_id": "heart"}, "fed_1"),
        (None, {"federation_id": "fed_9"}, "fed_9"),
        (None, {"federation_id": 7}, 7),
    ],
)
def test_a_jobs_federation_is_named(server: Any, federation: str | None, spec: dict[str, Any], sent: object) -> None:
    """By argument, then by the document; an id there, or what is no name, is for the service to judge."""
    listed = [{"id": "fed_1", "name": "heart"}, {"id": "fed_2", "name": "lungs"}]
    server.say("GET /v1/federations", {"items": listed, "next": None})
    server.say("POST /v1/jobs", JOB, 201)
    server.say("POST /v1/jobs/validations", {})
    with Client(server.profile) as client:
        client.submit_job({"name": "j", **spec}, federation=federation)
        client.validate_job({"name": "j", **spec}, federation=federation)
    bodies = [json.loads(body) for method, _, _, body in server.seen if method == "POST"]
    assert bodies == [{"name": "j", "federation_id": sent}] * 2


def test_a_federation_that_is_not_there_is_refused_with_the_near_ones(server: Any) -> None:
    listed = [{"id": "fed_1", "name": "heart"}, {"id": "fed_2", "name": "lungs"}]
    server.say("GET /v1/federations", {"items": listed, "next": None})
    with Client(server.profile) as client:
        with pytest.raises(UndersongError, match="did you mean 'heart'"):
            client.submit_job({"name": "j"}, federation="haert")
        with pytest.raises(UndersongError, match="there are 2 federations"):
            client.submit_job({"name": "j"})
        with pytest.raises(UndersongError, match="no federation is called 'fed_3'"):
            client.federation("fed_3")
    assert not [path for method, path, *_ in server.seen if method == "POST"]


async def test_requests_go_through_the_callers_transport() -> None:
    """Nothing goes to the network, in either client, and the caller's time limit reaches the transport."""
    seen: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return httpx.Response(200, json={"items": [{"id": "fed_1", "name": "heart"}], "next": None})

    profile = Profile(coordinator_url="https://nowhere.invalid", ca_file="/no/such/file")
    transport = httpx.MockTransport(answer)
    with Client(profile, transport=transport, timeout=3.0) as client:
        assert client.federation().name == "heart"
    async with AsyncClient(profile, transport=transport, timeout=httpx.Timeout(4.0, connect=1.0)) as awaited:
        assert (await awaited.federation("fed_1")).name == "heart"
    assert [(one["connect"], one["read"]) for one in seen] == [(3.0, 3.0), (1.0, 4.0)]


def test_waiting_ends_at_its_time_limit_while_events_come(server: Any) -> None:
    """Neither a silent stream nor one that keeps talking holds `wait` beyond its limit."""
    server.say("GET /v1/jobs/job_1/events", b"id: 1\nevent: round.planned\ndata: {}\n\n")
    server.say("GET /v1/jobs/job_1", JOB)
    with Client(server.profile) as client, pytest.raises(UndersongError, match=r"within 0\.6 s"):
        client.wait("job_1", timeout_s=0.6)


@pytest.mark.parametrize("retry_after", ["0", "1", "3600", "nan"])
def test_waiting_ends_at_its_time_limit_against_a_service_that_cannot_serve(retry_after: str) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(503, headers={"retry-after": retry_after}, json={"title": "Starting"})

    with (
        Client(Profile(coordinator_url="http://any"), transport=httpx.MockTransport(answer)) as client,
        pytest.raises(UndersongError, match=r"job_1 has not ended within 0\.4 s.*job watch job_1"),
    ):
        client.wait("job_1", timeout_s=0.4)
    assert len(asked) < 8, "a request that is not to be waited for is tried eight times, which takes 10 s and more"


@pytest.mark.parametrize("cursors", [["a"], ["a", "b"], ["a", "b", "c", "b"]])
def test_a_list_that_comes_back_to_a_page_is_an_error(cursors: list[str]) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params.get("after"))
        return httpx.Response(200, json={"items": [], "next": cursors[(len(asked) - 1) % len(cursors)]})

    with Client(Profile(coordinator_url="http://any"), transport=httpx.MockTransport(answer)) as client:
        with pytest.raises(ApiError, match="a page that was read before"):
            client.federations()
        assert len(asked) <= len(cursors) + 1


async def test_the_async_client_downloads(server: Any, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"model").hexdigest()
    server.say("GET /v1/versions/ver_1", {"id": "ver_1", "model_id": "mdl_1", "number": 1, "content_digest": digest})
    server.say("GET /v1/versions/ver_1/content", {"detail": "wait"}, 503, retry_after="0")
    server.say("GET /v1/versions/ver_1/content", b"model")
    async with AsyncClient(server.profile) as client:
        assert await client.download("ver_1", tmp_path / "model") == digest
    assert (tmp_path / "model").read_bytes() == b"model"


def test_a_refusal_says_every_fault() -> None:
    error = ApiError(422, "job-invalid", "Invalid.", "The job has 2 errors.", [("/rounds", "too many"), ("", "no")])
    assert str(error) == "The job has 2 errors.; /rounds: too many; /: no"
