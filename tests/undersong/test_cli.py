"""Commands print tables for people and JSON for scripts; a failure is one line, a remedy and an exit code."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Commands
from undersong import __version__, cli
from undersong.cli.common import complain
from undersong.client.types import Event
from undersong.errors import ApiError, UnreachableError
from undersong.profile import save_profile

Run = Callable[..., tuple[int, str, str]]
FEDERATION = {"id": "fed_1", "name": "hearts", "created_at": "2026-01-01T00:00:00Z"}
JOB = {"id": "job_1", "name": "j", "federation_id": "fed_1", "state": "succeeded", "spec": {"rounds": 2}}


@pytest.fixture
def run(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("UNDERSONG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.common.console, "width", 200)
    save_profile(server.profile)
    server.say("GET /v1/federations", {"items": [FEDERATION], "next": None})

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["undersong", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return call


def test_version(run: Run) -> None:
    assert run("version") == (0, f"{__version__}\n", "")


def test_a_list_is_a_table_for_people_and_json_for_scripts(run: Run) -> None:
    code, table, _ = run("federation", "list")
    assert (code, "hearts" in table) == (0, True)
    code, printed, _ = run("federation", "list", "--json")
    assert json.loads(printed)[0]["id"] == "fed_1"


def test_without_a_platform_the_remedy_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNDERSONG_HOME", str(tmp_path / "empty"))
    code, out, err = run("job", "list")
    assert (code, out) == (2, "")
    assert "undersong up" in err


def test_submitting_resolves_the_only_federation(run: Run, server: Any, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: j\nrounds: 2\n")
    server.say("POST /v1/jobs", JOB, 201)
    code, out, _ = run("job", "submit", "job.yaml", "--json")
    assert (code, json.loads(out)["id"]) == (0, "job_1")
    sent = next(json.loads(body) for method, path, _, body in server.seen if (method, path) == ("POST", "/v1/jobs"))
    assert sent == {"name": "j", "rounds": 2, "federation_id": "fed_1"}


def test_a_refused_job_lists_every_fault_with_its_place(run: Run, server: Any, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: j\n")
    errors = [{"path": "/rounds", "message": "is missing"}, {"path": "/data/label", "message": "no such column at b"}]
    server.say("POST /v1/jobs", {"title": "Invalid", "detail": "The job is not valid.", "errors": errors}, 422)
    code, _, err = run("job", "submit", "job.yaml")
    assert code == 1
    assert "/rounds: is missing" in err
    assert "/data/label: no such column at b" in err


def test_a_fault_of_many_jobs_of_a_sweep_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    errors = [(f"/changes/{place}/rounds", "too few") for place in range(100)]
    others = [("/changes/1/name", "too long"), ("/rounds", "too few"), ("/rounds", "too odd")]
    complain(ApiError(422, "sweep-invalid", "", "No job was submitted.", [*errors, *others]))
    told = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert told[1:5] == [
        "/changes/0/rounds and in 99 more jobs: too few",
        "/changes/1/name: too long",
        "/rounds: too few",
        "/rounds: too odd",
    ]


def test_a_job_that_failed_gives_its_reason_and_exit_code_one(run: Run, server: Any) -> None:
    server.say("GET /v1/jobs/job_1", {**JOB, "state": "failed", "reason": "quorum"})
    server.say("GET /v1/jobs/job_1/events", b"id: 1\nevent: job.failed\ndata: {}\n\n")
    code, _, err = run("job", "watch", "job_1")
    assert code == 1
    assert "quorum" in err
    assert "undersong job show job_1" in err


def test_a_job_that_waits_says_for_which_sites_and_why(run: Run, server: Any) -> None:
    """On its page, and as a line while it is watched: a site that is online may still be unable to work."""
    absent = [{"site_id": "site_1", "site_name": "north", "reason": "it cannot take work: its policy cannot be read"}]
    spec = {"rounds": 1, "cohort": {"min": 3}}
    waiting = {**JOB, "state": "running", "spec": spec, "waiting_since": "2026-01-01T00:00:00Z", "absent": absent}
    for _ in range(3):
        server.say("GET /v1/jobs/job_1", waiting)
    server.say("GET /v1/jobs/job_1", {**JOB, "spec": spec, "state": "succeeded", "reason": "completed"})
    stream = b"id: 1\nevent: job.waiting\ndata: {}\n\nid: 2\nevent: job.succeeded\ndata: {}\n\n"
    server.say("GET /v1/jobs/job_1/events", stream)
    code, out, err = run("job", "watch", "job_1")
    assert code == 0, err
    assert "job waits for 3 sites that can take part, since" in out
    assert "north: it cannot take work: its policy cannot be read" in out
    server.answers["GET /v1/jobs/job_1"] = []
    server.say("GET /v1/jobs/job_1", waiting)
    server.say("GET /v1/jobs/job_1/rounds", {"items": [], "next": None})
    server.say("GET /v1/jobs/job_1/participation", {"items": [], "next": None})
    server.say("GET /v1/jobs/job_1/privacy", {"job_id": "job_1", "opened": 0, "exact": 0, "spent": []})
    _, page, _ = run("job", "show", "job_1")
    assert "spent" not in page
    assert "for 3 sites that can take part, since" in page
    assert "north: it cannot take work: its policy cannot be read" in page
    asked = {"site_id": "site_2", "site_name": "east", "reason": "it waits", "consent": "waiting"}
    server.answers["GET /v1/jobs/job_1"] = []
    server.say("GET /v1/jobs/job_1", {**waiting, "absent": [*absent, asked]})
    server.say("GET /v1/jobs/job_1/rounds", {"items": [], "next": None})
    server.say("GET /v1/jobs/job_1/participation", {"items": [], "next": None})
    server.answers["GET /v1/jobs/job_1/privacy"] = []
    noisy = {"unit": "site", "sums": 2, "epsilon": 1.25, "delta": 1e-5}
    server.say("GET /v1/jobs/job_1/privacy", {"job_id": "job_1", "opened": 3, "exact": 1, "spent": [noisy]})
    _, page, _ = run("job", "show", "job_1")
    assert "epsilon 1.25 for each site at delta 1e-05 by 2 noisy sums; 1 exact sums, which nothing bounds" in page
    assert "for consent of east, since" in page
    assert "north: it cannot take work: its policy cannot be read" in page


def test_a_job_is_cloned_with_changed_settings(run: Run, server: Any) -> None:
    """Paths with dots or slashes; values are YAML, an empty one takes the setting out; nonsense is one line."""
    server.say("GET /v1/jobs/job_1", JOB)
    server.say("POST /v1/jobs/job_1/clones", {**JOB, "id": "job_2", "state": "running"}, 201)
    words = ("--set", "recipe.params.lr=0.5", "--set", "/recipe/name=no", "--set", "reason=", "--json")
    code, out, _ = run("job", "clone", "job_1", *words)
    assert (code, json.loads(out)["id"]) == (0, "job_2")
    sent = next(json.loads(body) for method, _, _, body in server.seen if method == "POST")
    assert sent == {"changes": {"recipe": {"params": {"lr": 0.5}, "name": "no"}, "reason": None}}
    for wrong in ("rounds", "=1", "a..b=1", "a={", "a=.nan"):
        assert run("job", "clone", "job_1", "--set", wrong)[0] != 0 or wrong == "a=.nan"


def test_jobs_are_compared_side_by_side(run: Run, server: Any) -> None:
    """A column for each job; every evaluation as CSV; a metric that a job never told is an empty cell."""
    curve = {"rounds": [1, 2], "seconds": [1.5, 3.0], "update_bytes": [48, 96], "metrics": {"auc": [0.5, None]}}
    jobs = [{**JOB, "name": "[b]=1", "trained": 2, "curve": curve, "metrics": {"auc": 0.5}, "update_bytes": 96}]
    jobs += [{**JOB, "id": "job_2", "name": "two", "epsilon": 2.0, "delta": 1e-6}]
    settings = [{"path": "/recipe/params/lr", "values": [0.1, None]}]
    server.say("GET /v1/job-comparison?jobs=job_1%2Cjob_2", {"jobs": jobs, "settings": settings, "metrics": ["auc"]})
    for name in ("job_1", "job_2"):
        server.say(f"GET /v1/jobs/{name}", {**JOB, "id": name})
    code, out, _ = run("job", "compare", "job_1", "job_2")
    assert code == 0
    assert "[b]=1" in out
    assert "/recipe/params/lr" in out
    assert "2 at delta 1e-06" in out
    _, told, _ = run("job", "compare", "job_1", "job_2", "--csv")
    assert told.splitlines() == [
        "job_id,job,round,seconds,update_bytes,auc",
        "job_1,[b]=1,1,1.5,48,0.5",
        "job_1,[b]=1,2,3.0,96,",
    ]


def test_a_watch_says_that_the_platform_is_away_and_how_to_watch_again(
    run: Run, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> Iterator[Event]:
        yield Event(id="", type="job.unheard")
        raise UnreachableError("the coordinator does not answer")

    server.say("GET /v1/jobs/job_1", {**JOB, "state": "running"})
    monkeypatch.setattr(cli.jobs.Client, "follow", lost)
    code, out, err = run("job", "watch", "job_1")
    assert code == 4
    assert "the platform does not answer; the job goes on" in out
    assert "undersong job watch job_1" in err


@pytest.mark.parametrize("state", ["failed", "paused"])
def test_the_sites_faults_are_one_line_each(run: Run, server: Any, state: str) -> None:
    """Whether the job ended or the platform paused it: the watch ends, says why and what to do."""
    causes = [
        {"code": "recipe-error", "sentence": "tabular has no parameter lr", "sites": 3},
        {"code": "site-lost", "sentence": "the site is away", "sites": 1},
    ]
    job = {**JOB, "state": state, "reason": "quorum", "explanation": "Too few answered.", "causes": causes}
    server.say("GET /v1/jobs/job_1", job)
    event = f'id: 1\nevent: job.{state}\ndata: {{"data": {{"reason": "quorum"}}}}\n\n'
    server.say("GET /v1/jobs/job_1/events", event.encode())
    code, _, err = run("job", "watch", "job_1")
    assert code == 1
    assert "3 sites: recipe-error: tabular has no parameter lr\n" in err
    assert "1 site: site-lost: the site is away\n" in err
    assert f"error: job job_1 is {state}: Too few answered." in err
    assert f"undersong job {'resume' if state == 'paused' else 'show'} job_1" in err


def test_a_key_that_comes_twice_in_a_job_file_is_refused(run: Run, tmp_path: Path) -> None:
    """In JSON as in YAML: which of the two was meant is not guessed."""
    (tmp_path / "job.json").write_text('{"name": "a", "rounds": 1, "rounds": 2}')
    (tmp_path / "job.yaml").write_text("name: a\nrounds: 1\nrounds: 2\n")
    for name, said in (("job.json", "a key twice"), ("job.yaml", "rounds")):
        code, _, err = run("job", "submit", name)
        assert code == 1
        assert said in err
        assert f"{name} cannot be read" in err


def test_a_file_that_is_no_job_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("a: [")
    code, _, err = run("job", "submit", "job.yaml")
    assert code == 1
    assert "cannot be read" in err


def test_enrolling_writes_everything_that_an_agent_needs(run: Run, server: Any, tmp_path: Path) -> None:
    server.say("POST /v1/federations/fed_1/sites", {"id": "site_1", "name": "north", "federation_id": "fed_1"}, 201)
    server.say(
        "POST /v1/enrolment-tokens", {"token_id": "t", "token": "once", "expires_at": "2030-01-01T00:00:00Z"}, 201
    )
    code, out, _ = run("site", "enroll", "north")
    assert code == 0
    assert "undersong agent run --config" in out
    assert (tmp_path / "north" / "enrol-token").read_text() == "once"
    assert (tmp_path / "north" / "enrol-token").stat().st_mode & 0o077 == 0
    assert server.url in (tmp_path / "north" / "agent.yaml").read_text()


def test_an_unknown_role_is_refused_before_anything_is_sent(run: Run, server: Any) -> None:
    code, _, err = run("token", "create", "ann", "--role", "king")
    assert code == 1
    assert "scientist" in err
    assert server.seen == []


def test_an_unknown_model_names_the_command_that_lists_them(run: Run, server: Any) -> None:
    server.say("GET /v1/models", {"items": [], "next": None})
    server.say("GET /v1/jobs", {"items": [], "next": None})
    code, _, err = run("model", "pull", "nothing")
    assert code == 1
    assert "undersong model list" in err


@pytest.mark.parametrize("name", ["heart@", "heart:", "@champion", ":1"])
def test_half_a_reference_names_no_version(run: Run, server: Any, name: str) -> None:
    for path in ("/v1/models", "/v1/jobs"):
        server.say(f"GET {path}", {"items": [], "next": None})
    code, _, err = run("model", "pull", name)
    assert (code, "names no version" in err) == (1, True), err


def test_a_job_is_pulled_by_its_last_version(run: Run, server: Any) -> None:
    """Also when it paused; with --last-good an earlier one where the registry's file is damaged."""
    body = b"model"
    digest = hashlib.sha256(body).hexdigest()
    models = [{"id": "mdl_1", "name": "heart", "federation_id": "fed_1"}]
    versions = [{"id": f"ver_{at}", "model_id": "mdl_1", "number": at, "content_digest": digest} for at in (1, 2)]
    job = {**JOB, "state": "paused", "reason": "quorum", "version_id": "ver_2", "model_id": "mdl_1"}
    server.say("GET /v1/jobs/job_1", job)
    server.say("GET /v1/jobs", {"items": [job], "next": None})
    server.say("GET /v1/models", {"items": models, "next": None})
    server.say("GET /v1/models/mdl_1", models[0])
    for version in versions:
        server.say(f"GET /v1/versions/{version['id']}", version)
        server.say(f"GET /v1/versions/{version['id']}/content", body)
    server.say("GET /v1/versions/ver_2/content?fallback=last-good", b"m", 206, undersong_version="ver_1")
    for subject, options, number in (("job_1", (), 2), ("j", (), 2), ("job_1", ("--last-good",), 1)):
        code, out, err = run("model", "pull", subject, "--out", "file", "--json", *options)
        assert (code, json.loads(out)["number"]) == (0, number), err
        assert Path("file").read_bytes() == body
    assert "version 2 is damaged at the registry: version 1 is the last good one" in err
    server.say("GET /v1/jobs/job_2", {**job, "id": "job_2", "version_id": None})
    assert "no model version yet" in run("model", "pull", "job_2")[2]


def test_a_site_enrolled_again_names_the_jobs_that_it_may_block(run: Run, server: Any) -> None:
    """Those that are not over, in which it has committed to its number of samples; others are no concern."""
    weighted = {"update": {"max_weight": 256}, "cohort": {"min": 3}}
    specs = {"job_1": weighted, "job_2": {"update": {"max_weight": 1}}, "job_3": {"kind": "statistics"}}
    jobs = [{**JOB, "id": key, "name": f"of {key}", "state": "paused", "spec": spec} for key, spec in specs.items()]
    jobs += [{**jobs[0], "id": "job_4", "state": "failed"}, {**jobs[0], "id": "job_5", "state": "running"}]
    server.say("GET /v1/sites", {"items": [{"id": "site_1", "name": "north", "federation_id": "fed_1"}], "next": None})
    server.say("GET /v1/jobs?federation_id=fed_1", {"items": jobs, "next": None})
    for job, done in (("job_1", 2), ("job_5", 0)):
        parts = [{"site_id": "site_1", "done": done}, {"site_id": "site_2", "done": 7}]
        server.say(f"GET /v1/jobs/{job}/participation", {"items": parts, "next": None})
    server.say("GET /v1/certificates?name=site_1", {"items": [], "next": None})
    token = {"token_id": "t", "token": "again", "expires_at": "2030-01-01T00:00:00Z"}
    server.say("POST /v1/enrolment-tokens", token, 201)
    code, _, err = run("site", "re-enroll", "north")
    assert code == 0
    assert "of job_1 (job_1), paused, needs 3 sites" in err
    assert "undersong job cancel JOB, and submit it again" in err
    assert "job_5" not in err
    assert json.loads(run("site", "re-enroll", "north", "--json")[1])["begun_jobs"] == ["job_1"]


def test_what_a_site_cannot_read_is_on_its_line(run: Run, server: Any) -> None:
    """The policy keeps it from all work, a data set from jobs on that one; the reasons are not here."""
    faults = [{"code": "policy-unreadable", "dataset": None}, {"code": "dataset-unreadable", "dataset": "heart\x1b[2J"}]
    site = {"id": "site_1", "name": "north", "federation_id": "fed_1", "state": "active", "online": True}
    server.say("GET /v1/sites", {"items": [{**site, "profile": {"faults": faults}}], "next": None})
    _, listed, _ = run("site", "list")
    assert "online, policy-unreadable" in listed
    assert "heart\ufffd[2J (unreadable)" in listed
    _, page, _ = run("site", "show", "north")
    assert "policy-unreadable: its policy cannot be read; its owner sees why with" in page
    assert json.loads(run("site", "show", "site_1", "--json")[1])["profile"]["faults"] == faults


def test_doctor_finds_what_is_away_and_what_waits(run: Run, server: Any) -> None:
    server.say("GET /health/ready", {"status": "unready", "failing": ["database"], "degraded": []}, 503)
    server.say("GET /health/live", {"status": "live"})
    server.say("GET /v1/me", {"title": "Unauthenticated", "detail": "The token has expired."}, 401)
    server.say("GET /v1/authority", {"title": "Away"}, 404)
    server.say("GET /v1/certificates", {"items": [], "next": None})
    server.say("GET /v1/sites", {"items": [{"id": "s", "name": "n", "federation_id": "f"}], "next": None})
    code, out, _ = run("doctor", "--json")
    found = {finding["subject"]: finding for finding in json.loads(out)}
    assert code == 1
    assert "COORDINATOR_DATABASE_URL" in found["coordinator"]["remedy"]
    assert found["token"]["state"] == "fault"
    assert found["site n"]["state"] == "warning"
    assert all(finding["remedy"] for finding in found.values() if finding["state"] != "ok")


@pytest.mark.parametrize("words", [(), ("job",), ("model", "--help"), ("site", "enroll", "--help")])
def test_help_needs_no_platform(commands: Commands, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = commands.run(*words, cwd=tmp_path, env=os.environ)
    assert "Usage" in done.stdout + done.stderr


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: 1e400", "a: !!binary aGk=", 'a: "\\ud800"', "a: \xff"])
def test_a_job_file_that_no_request_can_hold_is_one_line(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_bytes(text.encode("latin-1"))
    code, out, err = run("job", "submit", "job.yaml")
    assert (code, out) == (1, "")
    assert err.startswith("error: job.yaml cannot be read: ")
    assert "Traceback" not in err
