"""The command line as people use it: real commands, a real `undersong up`, real agents."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.commands import Commands
from tests.pace import Deadline
from undersong.local.layout import Layout

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

UNDERSONG = str(Path(sys.executable).with_name("undersong"))
SITES = ("north", "south", "east side")
NOTHING = {"datasets": [{"name": "nothing", "kind": "none", "columns": []}]}
REMOTE = '# ours\n[default]\ncoordinator_url = "https://real.example.org"\ntoken = "precious"\n'


@dataclass
class Shell:
    """One user's shell; what it starts ends with it."""

    folder: Path
    commands: Commands
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    agents: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    hook_port: int = 0

    @property
    def env(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("UNDERSONG_")}
        return {**clean, "UNDERSONG_HOME": str(self.folder / "config")}

    def run(self, *words: str, code: int = 0, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        done = self.commands.run(*words, cwd=self.folder, env=self.env, stdin=stdin)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def start(self, log: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as output:
            made = subprocess.Popen(
                [UNDERSONG, *words],
                cwd=self.folder,
                env=self.env,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        self.started.append(made)
        return made

    def agent(self, name: str) -> None:
        config = str(self.folder / name / "agent.yaml")
        self.agents[name] = self.start(f"{name}.log", "agent", "run", "--config", config)

    def close(self) -> None:
        for process in reversed(self.started):
            process.send_signal(signal.SIGTERM)
        for process in self.started:
            process.wait(60)


def until(holds: Callable[[], object], what: str, within_s: float = 180.0) -> None:
    deadline = Deadline(within_s)
    while not holds():
        assert not deadline.over(), what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def shell(
    tmp_path_factory: pytest.TempPathFactory, commands: Commands, unused_tcp_port_factory: Callable[[], int]
) -> Iterator[Shell]:
    """A user who is logged in elsewhere starts a platform with three sites."""
    made = Shell(tmp_path_factory.mktemp("user's folder"), commands, hook_port=unused_tcp_port_factory())
    (made.folder / "config").mkdir()
    (made.folder / "config" / "profiles.toml").write_text(REMOTE)
    (made.folder / "nothing.yaml").write_text(yaml.safe_dump(NOTHING))
    try:
        hook = f"coordinator.webhook_origins=http://127.0.0.1:{made.hook_port}"
        up = made.start("up.log", "up", "--home", ".home", "--set", hook)
        log, noted = made.folder / "up.log", made.folder / "config" / "local" / "local.toml"
        until(lambda: noted.exists() or up.poll() is not None, "the start is noted")
        early = subprocess.run(
            [UNDERSONG, "job", "list"], cwd=made.folder, env=made.env, capture_output=True, text=True
        )
        assert "is starting" in early.stderr or "Ctrl-C" in log.read_text(), early.stderr
        until(lambda: "Ctrl-C" in log.read_text() or up.poll() is not None, "the platform starts")
        assert up.poll() is None, log.read_text()
        for name in SITES:
            made.run("site", "enroll", name, "--datasets", "nothing.yaml")
            made.agent(name)
        logs = [made.folder / f"{name}.log" for name in SITES]
        until(lambda: all("profile.told" in log.read_text() for log in logs), "the agents tell what they have")
        until(lambda: made.run("site", "list").stdout.count("online") == len(SITES), "the agents come online")
        yield made
    finally:
        made.close()


def profiles(shell: Shell) -> str:
    return (shell.folder / "config" / "profiles.toml").read_text()


def test_a_local_platform_leaves_the_stored_profile_alone(shell: Shell) -> None:
    """Commands speak to the platform that runs here, and say so; its file is the only one that it writes."""
    assert profiles(shell) == REMOTE
    found = shell.run("site", "list")
    assert "local platform 'local'" in found.stderr
    assert "--profile default" in found.stderr
    stored = tomllib.loads((shell.folder / "config" / "local" / "local.toml").read_text())
    assert stored["home"] == str(shell.folder / ".home")
    assert shell.json("federation", "list", "--profile", "local") == shell.json("federation", "list")


def test_the_start_tells_what_has_started(shell: Shell) -> None:
    said = (shell.folder / "up.log").read_text()
    assert said.index("starting in") < said.index("coordinator is ready") < said.index("up in")


def test_the_bare_address_leads_to_the_dashboard(shell: Shell) -> None:
    url = str(tomllib.loads((shell.folder / "config" / "local" / "local.toml").read_text())["coordinator_url"])
    answer = httpx.get(url)
    assert (answer.status_code, answer.headers["location"]) == (307, "/dashboard")
    shown = httpx.get(url, follow_redirects=True)
    assert (shown.status_code, "text/html" in shown.headers["content-type"]) == (200, True)


def null_job(name: str, **changes: Any) -> str:
    spec = {
        "name": name,
        "model": {"name": "nothing learnt"},
        "recipe": {"name": "null", "params": {"parameters": 100}},
        "data": {"dataset": "nothing"},
        "rounds": 2,
        "evaluation": {"every": 0},
        "cohort": {"min": 3},
    }
    return str(yaml.safe_dump(spec | changes))


@pytest.fixture(scope="module")
def watched(shell: Shell) -> subprocess.CompletedProcess[str]:
    """A job from standard input, watched in a pipe."""
    return shell.run("job", "submit", "-", "--watch", stdin=null_job("by name"))


def test_a_job_in_a_pipe_tells_each_round(watched: subprocess.CompletedProcess[str]) -> None:
    lines = watched.stdout.splitlines()
    assert [
        sum(f" {title} " in line and "3 of 3 sites" in line for line in lines) for title in ("train 1", "train 2")
    ] == [1, 1]
    assert any(line.endswith("job succeeded completed") for line in lines), lines
    assert "\x1b" not in watched.stdout


def test_a_job_is_one_screen(shell: Shell, watched: subprocess.CompletedProcess[str]) -> None:
    """Its state, the sites' participation with their receipts, the clipped updates of each round; no JSON."""
    shown = shell.run("job", "show", "by name").stdout
    assert shown.startswith("by name  succeeded")
    assert "{" not in shown
    assert "2 of 2 trained" in shown
    head, *parts = next(block for block in shown.split("\n\n") if block.startswith("site")).splitlines()
    assert head.split() == [
        "site",
        "asked",
        "answered",
        "refused",
        "late",
        "under",
        "way",
        "receipts",
        "last",
        "answer",
    ]
    assert sorted(line[: len("east side")].strip() for line in parts) == sorted(SITES)
    told = shell.json("job", "show", "by name")
    assert {"job", "rounds"} == set(told)
    trained = [line for line in shown.splitlines() if line.startswith("train ")]
    assert [line.split()[:7] for line in trained] == [
        ["train", n, "1", "published", "3", "of", "3"] for n in ("1", "2")
    ]
    by_id = shell.run("job", "show", told["job"]["id"]).stdout
    assert by_id.splitlines()[0] == shown.splitlines()[0]


def test_names_do_wherever_ids_do(shell: Shell, watched: subprocess.CompletedProcess[str]) -> None:
    shell.run("job", "watch", "by name")
    assert "succeeded" in shell.run("job", "pause", "by name", code=1).stderr
    assert "job list" in shell.run("job", "show", "by another name", code=1).stderr
    shell.run("verify", "nothing learnt")
    shell.run("evidence", "nothing learnt:2", "--out", "evidence file")
    (version,) = [row["id"] for row in shell.json("model", "show", "nothing learnt") if row["number"] == 2]
    shell.run("model", "promote", "nothing learnt", "--version", "1")
    for subject, number in (("nothing learnt", 2), ("nothing learnt:champion", 1), (version, 2)):
        assert shell.json("model", "pull", subject, "--out", "model file")["number"] == number
    assert "nothing learnt:7" not in shell.run("model", "list").stdout
    assert "no version '7'" in shell.run("model", "pull", "nothing learnt:7", code=1).stderr


def test_two_jobs_of_one_name_are_told_apart(shell: Shell, watched: subprocess.CompletedProcess[str]) -> None:
    """The one that runs is meant; of two that ended, the ids are listed."""
    again = json.loads(shell.run("job", "submit", "-", "--json", stdin=null_job("by name", rounds=10_000)).stdout)
    assert again["id"] in shell.run("job", "cancel", "by name").stdout
    refused = shell.run("job", "show", "by name", code=1).stderr
    assert "2 jobs are called" in refused
    assert again["id"] in refused


def test_models_are_listed_with_numbers_and_aliases(shell: Shell, watched: subprocess.CompletedProcess[str]) -> None:
    shell.run("model", "promote", "nothing learnt", "--version", "1")
    head, row = shell.run("model", "list").stdout.splitlines()
    assert head.split() == ["name", "versions", "newest", "aliases", "metrics", "made", "id"]
    assert row.startswith("nothing learnt")
    assert "champion → 1" in row
    (found,) = shell.json("model", "list")
    assert found["name"] == "nothing learnt"


def test_declarations_are_compared(shell: Shell) -> None:
    assert shell.json("data", "compare", "nothing")["sites"] == sorted(SITES)
    assert "the sites match" in shell.run("data", "compare", "nothing").stdout


def test_tokens_and_users_are_seen_and_ended(shell: Shell) -> None:
    token = shell.run("token", "create", "ann b", "--role", "auditor").stdout.strip()
    assert "auditor of federation" in shell.run("user", "list").stdout
    shell.run("token", "create", "laptop", "--user", "ann b")
    listed = shell.run("token", "list", "--user", "ann b").stdout
    assert listed.count("in force") == 2
    assert token not in listed
    url = str(tomllib.loads((shell.folder / "config" / "local" / "local.toml").read_text())["coordinator_url"])
    bearer = {"authorization": f"Bearer {token}"}
    assert httpx.get(f"{url}/v1/me", headers=bearer).status_code == 200
    shell.run("token", "revoke", "ann b", "--user", "ann b")
    assert httpx.get(f"{url}/v1/me", headers=bearer).status_code == 401
    assert "revoked" in shell.run("token", "list", "--user", "ann b").stdout
    assert "token list" in shell.run("token", "revoke", "ann b", "--user", "ann b", code=1).stderr


def test_any_operation_is_one_command(shell: Shell, watched: subprocess.CompletedProcess[str]) -> None:
    """As the profile's user, as JSON; page by page with --all; refusals and slips are one line."""
    assert json.loads(shell.run("api", "get", "/v1/me").stdout)["name"]
    query = "/v1/sites?limit=1"
    assert len(json.loads(shell.run("api", "GET", query).stdout)["items"]) == 1
    assert {site["name"] for site in json.loads(shell.run("api", "GET", query, "--all").stdout)} == set(SITES)
    assert json.loads(shell.run("api", "GET", "/v1/authority", "--service", "keys").stdout)
    made = shell.run("api", "POST", "/v1/users", "--body", "-", stdin="{name: bob, roles: [{role: admin}]}")
    assert json.loads(made.stdout)["name"] == "bob"
    refused = shell.run("api", "POST", "/v1/users", "--body", "-", stdin='{"name": "bob"}', code=1).stderr
    assert "/roles" in refused
    for words, said in [
        (("GET", "/v1/jobs", "--service", "coordnator"), "did you mean 'coordinator'"),
        (("PATCH", "/v1/jobs"), "GET, POST, PUT, DELETE"),
        (("GET", "http://elsewhere.example/v1/jobs"), "no path of the API"),
        (("GET", "/v1/../metrics"), "no path of the API"),
        (("GET", "/v1/jobs?limit=1&limit=2"), "twice"),
        (("GET", "/v1/me", "--all"), "no list"),
        (("GET", "/v1/jobs", "--body", "-"), "no body"),
        (("POST", "/v1/jobs", "--body", "nothing.json"), "cannot be read"),
    ]:
        assert said in shell.run("api", *words, code=1).stderr, words


def test_a_webhook_hears_of_jobs(shell: Shell, watched: subprocess.CompletedProcess[str]) -> None:
    """Allowed by a setting of `up`, made and tried from the command line, delivered by the worker."""
    got: list[tuple[str, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            got.append((body["type"], str(body["data"]["job_name"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", shell.hook_port), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{shell.hook_port}/jobs"
        assert (
            "no origin that the operator allows"
            in shell.run("webhook", "create", "http://127.0.0.1:1/", "--event", "job.failed", code=1).stderr
        )
        assert shell.run("webhook", "create", address, "-e", "job.cancelled").stdout.startswith("whsec_")
        shell.run("webhook", "test", address)
        assert "webhook deliveries" in shell.run("webhook", "requeue", address, code=1).stderr
        shell.run("job", "submit", "-", stdin=null_job("heard of", rounds=10_000))
        shell.run("job", "cancel", "heard of")
        until(lambda: len(got) == 2, "both messages arrive")
        server.shutdown()
    assert sorted(got) == [("job.cancelled", "heard of"), ("webhook.test", "None")]
    until(lambda: all(row["state"] == "delivered" for row in shell.json("webhook", "deliveries", address)), "noted")
    shell.run("webhook", "delete", address)
    assert shell.json("webhook", "list") == []


def test_a_lost_site_enrols_again_and_goes_on(shell: Shell, watched: subprocess.CompletedProcess[str]) -> None:
    """Under the same id, with its old certificate revoked, beside a job that needs it; its files stay as they are."""
    before = {row["name"]: row["id"] for row in shell.json("site", "list")}
    datasets = (shell.folder / "east side" / "datasets.yaml").read_bytes()
    shell.agents["east side"].kill()
    told = shell.run("site", "re-enroll", "east side").stdout
    line = next(line for line in told.splitlines() if "agent run" in line)
    assert shlex.split(line)[-1] == str(shell.folder / "east side" / "agent.yaml")
    assert (shell.folder / "east side" / "datasets.yaml").read_bytes() == datasets
    shell.agent("east side")
    shell.run("job", "submit", "-", "--watch", stdin=null_job("with all three"))
    assert {row["name"]: row["id"] for row in shell.json("site", "list")} == before
    part = next(line for line in shell.run("job", "show", "with all three").stdout.splitlines() if "east side" in line)
    asked, answered, refused = (int(word) for word in part.split()[2:5])
    assert asked == answered >= 2, part  # two rounds of training, and perhaps the first model
    assert refused == 0, part
    assert "new token" in shell.run("site", "re-enroll", "east side").stdout


def test_an_invited_site_takes_part_once_its_key_is_approved(
    shell: Shell, watched: subprocess.CompletedProcess[str]
) -> None:
    """From its start kit alone; the operator compares the key's fingerprint with the one in the agent's log."""
    assert "site approve west" in shell.run("site", "invite", "west").stdout
    assert "exists" in shell.run("site", "invite", "west", "--out", "undersong-west.tar.gz", code=1).stderr
    assert "undersong-west-2.tar.gz" in shell.run("site", "invite", "west").stdout, "again, its earlier token ends"
    assert "no key of west waits" in shell.run("site", "approve", "west", code=1).stderr
    with tarfile.open(shell.folder / "undersong-west-2.tar.gz") as archive:
        archive.extractall(shell.folder, filter="data")
    shell.agent("undersong-west")
    until(lambda: shell.json("site", "invitations", "west")[-1]["state"] == "waiting", "its key waits")
    key = shell.json("site", "invitations", "west")[-1]["fingerprint"]
    until(lambda: key in (shell.folder / "undersong-west.log").read_text(), "the site tells its key")
    refused = shell.run("site", "approve", "west", "--fingerprint", "0" * 64, code=1).stderr
    assert "do not approve it" in refused
    assert "at least" in shell.run("site", "approve", "west", "--fingerprint", key[:7], code=1).stderr
    shell.run("site", "approve", "west", "--fingerprint", key[:16])
    until(lambda: "online" in shell.run("site", "show", "west").stdout, "it is there")
    assert "valid" in shell.run("site", "certificates", "west").stdout
    shell.run("site", "suspend", "west")
    shell.run("site", "resume", "west")
    told = [(entry["action"], entry["data"].get("name")) for entry in shell.json("changes")]
    made = [(f"site.{what}", "west") for what in ("resume", "suspend", "invite", "invite", "create")]
    assert [each for each in told if each[1] == "west"] == made
    shell.agents.pop("undersong-west").terminate()


def test_printed_commands_can_be_copied(shell: Shell) -> None:
    told = shell.run("site", "enroll", "north west").stdout
    words = shlex.split(next(line for line in told.splitlines() if "agent run" in line))
    assert words[-1] == str(shell.folder / "north west" / "agent.yaml")
    assert (shell.folder / "north west" / ".gitignore").read_text() == "*\n"


def test_the_version_and_the_shells_completion(shell: Shell) -> None:
    assert shell.run("--version").stdout == shell.run("version").stdout
    env = {**shell.env, "_UNDERSONG_COMPLETE": "complete_bash", "COMP_WORDS": "undersong jo", "COMP_CWORD": "1"}
    done = subprocess.run([UNDERSONG], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["job"]


@pytest.mark.exhaustive
def test_a_device_that_is_not_there_is_refused_at_the_start(shell: Shell) -> None:
    """By the agent, before it enrols, and by doctor, for the same reason."""
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    config = shell.folder / "without GPU" / "agent.yaml"
    shell.run("site", "enroll", "without GPU", "--datasets", "nothing.yaml")
    config.write_text(config.read_text() + "device: cuda\n")
    refused = shell.run("agent", "run", "--config", str(config), code=2).stderr
    assert "device: cuda: PyTorch" in refused
    assert "device: auto or cpu" in refused
    found = {
        row["subject"]: row for row in json.loads(shell.run("doctor", "--agent", str(config), "--json", code=1).stdout)
    }
    assert found["device"]["state"] == "fault"
    assert found["device"]["detail"].removeprefix("cuda: ") in refused


@pytest.mark.exhaustive
def test_a_taken_port_at_a_restart_is_an_error(shell: Shell) -> None:
    """The remedy is named and works; nothing has moved by itself."""
    again = ("up", "--home", "second home", "--no-stay")
    ports = dict(Layout.prepare(shell.folder / "second home").ports)  # as an earlier run chose them
    file = shell.folder / "second home" / "ports.json"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports["keys"]))
        taken.listen()
        refused = shell.run(*again, code=3)
        assert f"{ports['keys']} (keys)" in refused.stderr
        assert "--move" in refused.stderr
        assert json.loads(file.read_text()) == ports
        shell.run(*again, "--move")
    moved = json.loads(file.read_text())
    assert {name for name in ports if ports[name] != moved[name]} == {"keys"}
    assert profiles(shell) == REMOTE


def test_a_schedule_is_made_looked_at_paused_and_deleted(shell: Shell) -> None:
    document = null_job("nightly", rounds=1)
    wrong = ["schedule", "create", "-", "--cron", "30 25 * * *", "--timezone", "Europe/Berln"]
    said = shell.run(*wrong, stdin=document, code=1).stderr
    assert "no cron expression" in said
    assert "Europe/Berlin" in said
    made = shell.run("schedule", "create", "-", "--cron", "30 2 1 1 *", "--timezone", "Asia/Shanghai", stdin=document)
    assert "18:30 UTC" in made.stdout
    assert shell.json("schedule", "show", "nightly")["state"] == "active"
    shell.run("schedule", "pause", "nightly")
    assert [row["state"] for row in shell.json("schedule", "list")] == ["paused"]
    assert "18:30 UTC" in shell.run("schedule", "resume", "nightly").stdout
    shell.run("schedule", "delete", "nightly")
    assert "no schedule is called" in shell.run("schedule", "pause", "nightly", code=1).stderr


def test_a_sweep_is_checked_made_shown_and_cancelled(shell: Shell) -> None:
    document = null_job("tried", rounds=10_000)
    varied = ["--name", "rounds", "--set", "rounds=9000,9001", "--set", "recipe.params.parameters=10,20"]
    wrong = shell.run("sweep", "create", "-", "--name", "bad", "--set", "rounds=-1,5", stdin=document, code=1).stderr
    assert "/changes/0/rounds" in wrong
    assert (
        "varied twice" in shell.run("sweep", "create", "-", *varied, "--set", "rounds=1", stdin=document, code=1).stderr
    )
    plan = shell.run("sweep", "create", "-", *varied, "--dry-run", stdin=document)
    assert "4 jobs vary /rounds, /recipe/params/parameters" in plan.stderr
    assert shell.json("sweep", "list") == []
    assert shell.run("sweep", "create", "-", *varied, "--parallel", "1", stdin=document).stdout.startswith("swp_")
    until(lambda: shell.json("sweep", "list")[0]["states"].get("running") == 1, "its first job runs")
    assert shell.run("sweep", "show", "rounds", "--csv").stdout.startswith("job,rounds,parameters,state")
    assert "no job of the sweep has a metric" in shell.run("sweep", "show", "rounds", "--metric", "auc", code=1).stderr
    assert "rounds is cancelled" in shell.run("sweep", "cancel", "rounds").stdout
    assert shell.json("sweep", "show", "rounds")["jobs"][0]["state"] == "cancelled"
    assert [job["name"] for job in shell.json("job", "list", "--tag", "sweep:rounds")] == ["tried 1"]
