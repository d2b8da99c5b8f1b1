"""The pages over plain values: who may see them, what they say, and what they never let through."""

import asyncio
import csv
import hashlib
import io
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.services.coordinator.dashboard.conftest import ROOT, csrf
from undersong.services.coordinator.dashboard import assets, editor
from undersong.services.coordinator.dashboard.audit_views import CheckItem, PrivacyAuditItem
from undersong.services.coordinator.dashboard.comparison import drawn
from undersong.services.coordinator.dashboard.pages import changes, curves
from undersong.services.coordinator.dashboard.views import CauseItem, ComparisonItem, ExclusionItem, Measure
from undersong.services.coordinator.dashboard.wording import measured
from undersong.services.coordinator.views.job_comparisons import CurveView

PAGES = (
    "",
    "/jobs",
    "/schedules",
    "/sweeps",
    "/sweeps/swp_1",
    "/models/mdl_1",
    "/models/mdl_1/comparison?first=1&second=3",
    "/jobs/job_01running",
    "/jobs/job_02failed",
    "/jobs/job_01running/timeline",
    "/jobs/job_01running/log",
    "/rounds/rnd_train3",
    "/sites",
    "/people",
    "/data",
    "/models",
    "/privacy",
    "/versions/ver_5/datasheet",
    "/keys",
    "/operations",
    "/submit",
    "/submit?job=job_01running",
    "/compare",
    "/compare?jobs=job_01running,job_02failed&jobs=job_03done",
    "/audit",
    "/audit?subject=rnd_train3",
)


@pytest.mark.parametrize("path", [*PAGES, "/stream", "/jobs/job_01running/metrics"])
async def test_nothing_is_shown_to_a_stranger(stranger: httpx.AsyncClient, path: str) -> None:
    answer = await stranger.get(ROOT + path)
    assert answer.status_code in {303, 401}
    assert "Heart" not in answer.text


async def test_a_part_that_renews_itself_after_the_session_reloads_the_page(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.get(ROOT, headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["hx-refresh"]) == (401, "true")


async def test_every_form_that_posts_carries_the_mark(browser: httpx.AsyncClient) -> None:
    for path in PAGES:
        for form in re.findall(r'<form[^>]*method="post".*?</form>', (await browser.get(ROOT + path)).text, re.DOTALL):
            assert re.search(r'name="csrf" value="[\w-]{32}"', form), path


@pytest.mark.parametrize("path", PAGES)
async def test_every_page_allows_only_our_own_scripts(browser: httpx.AsyncClient, path: str) -> None:
    answer = await browser.get(ROOT + path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    _Inline().feed(answer.text)


class _Inline(HTMLParser):
    """Fails on whatever the policy would refuse, and on addresses of other hosts."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            assert not name.startswith("on")
            assert name != "style"
            if name in {"src", "href", "action"}:
                assert (value or "").startswith(("/dashboard", "#")), value
        if tag == "script":
            assert "src" in dict(attrs)
        assert tag != "style"


async def test_names_are_text_and_never_markup(browser: httpx.AsyncClient) -> None:
    text = (await browser.get(f"{ROOT}/jobs")).text
    assert "First try &lt;b&gt;" in text
    assert "First try <b>" not in text


async def test_the_weak_engine_is_called_weak(browser: httpx.AsyncClient) -> None:
    text = (await browser.get(f"{ROOT}/rounds/rnd_train3")).text
    assert "weak" in text
    assert "the aggregator itself sees every single update" in text


async def test_clipped_updates_are_shown_by_the_round_and_by_its_job(browser: httpx.AsyncClient) -> None:
    assert '<dd id="clipped">3 of 3</dd>' in (await browser.get(f"{ROOT}/rounds/rnd_train3")).text
    assert " · 3 clipped" in (await browser.get(f"{ROOT}/jobs/job_01running")).text


async def test_a_failure_shows_its_reason_and_last_lines(browser: httpx.AsyncClient) -> None:
    text = (await browser.get(f"{ROOT}/jobs/job_01running")).text
    assert "men &lt;i&gt;" in text
    assert "auc 0.850" in text
    assert 'points="12,90 61,28"' in text
    assert "north &lt;b&gt;" in text
    assert "auc over these sites: mean 0.800, deviation 0.100, worst 0.700 at south" in text
    assert "0.72 at 0.61, 60 rows" in text
    assert "Precision and recall: 0.75 at 0.8;" in text
    assert "recipe-failed" in text
    assert "column &#39;chol&#39; holds text" in text


async def test_a_job_that_waits_for_consent_says_of_whom(browser: httpx.AsyncClient, view) -> None:
    waiting = replace(view.all_jobs[0], waiting_since=datetime.now(UTC), awaits=("north", "<b>east"))
    view.all_jobs[0], view.all_rounds = waiting, []
    text = (await browser.get(f"{ROOT}/jobs/{waiting.id}")).text
    assert "Waiting for consent of north, &lt;b&gt;east" in text
    assert "Too few sites" not in text


async def test_a_late_round_is_loud(browser: httpx.AsyncClient, view) -> None:
    late = replace(view.all_rounds[-1], deadline=datetime.now(UTC) - timedelta(minutes=3))
    view.all_rounds[-1] = late
    text = (await browser.get(ROOT)).text
    assert "past its deadline" in text
    assert "Nothing is stuck" not in text


async def test_redis_away_is_said(browser: httpx.AsyncClient, view) -> None:
    view.degraded = ("redis",)
    assert "redis is away" in (await browser.get(ROOT)).text


async def test_an_agents_alarm_stands_in_its_sites_row(browser: httpx.AsyncClient, view) -> None:
    told = {"alarms": ("log-fork: two <logs>",), "faults": ("policy-unreadable: its policy cannot be read",)}
    view.all_sites = [replace(view.all_sites[0], **told), *view.all_sites[1:]]
    page = (await browser.get(f"{ROOT}/sites")).text
    assert page.count('role="alert"') == 2
    assert "policy-unreadable: its policy cannot be read" in page
    assert "log-fork: two &lt;logs&gt;" in page


async def test_empty_pages_teach_the_next_command(browser: httpx.AsyncClient, view) -> None:
    view.all_jobs, view.all_rounds, view.all_sites, view.all_releases = [], [], [], []
    view.plain_models.listed = []
    assert "undersong federation create" in (await browser.get(ROOT)).text
    assert "undersong job submit" in (await browser.get(f"{ROOT}/jobs")).text
    assert "undersong site invite" in (await browser.get(f"{ROOT}/sites")).text
    assert "undersong job submit" in (await browser.get(f"{ROOT}/models")).text


async def test_what_is_not_there_is_a_page_of_its_own(browser: httpx.AsyncClient) -> None:
    answer = await browser.get(f"{ROOT}/jobs/job_none")
    assert answer.status_code == 404
    assert "There is no job job_none." in answer.text


async def test_a_job_is_paused_from_our_page_only(browser: httpx.AsyncClient, view) -> None:
    path = f"{ROOT}/jobs/job_01running/pause"
    assert (await browser.post(path, data={"csrf": "forged"})).status_code == 403
    own = {"csrf": await csrf(browser)}
    assert (await browser.post(path, data=own, headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
    assert view.steered == []
    assert (await browser.post(path, data=own)).status_code == 303
    assert view.steered == [("job_01running", "pause")]
    assert "Resume" in (await browser.get(f"{ROOT}/jobs/job_01running")).text


async def test_who_may_not_steer_sees_no_buttons(browser: httpx.AsyncClient, view) -> None:
    view.may_steer = False
    assert "/pause" not in (await browser.get(f"{ROOT}/jobs/job_01running")).text


async def test_a_large_form_is_refused(browser: httpx.AsyncClient) -> None:
    assert (await browser.post(f"{ROOT}/login", content=b"x" * 10_000)).status_code == 413


async def test_signing_out_forgets_the_session(browser: httpx.AsyncClient) -> None:
    answer = await browser.post(f"{ROOT}/logout", data={"csrf": await csrf(browser)})
    assert answer.status_code == 303
    assert (await browser.get(ROOT)).status_code == 303


async def test_static_files_are_kept_by_their_content(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.get(assets.address(ROOT, "dashboard.css"))
    assert "immutable" in answer.headers["cache-control"]
    again = await stranger.get(f"{ROOT}/static/dashboard.css", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("name", ["../pages.py", "%2e%2e/pages.py", "vendor/../../pages.py", "nothing.css"])
async def test_only_static_files_are_served(stranger: httpx.AsyncClient, name: str) -> None:
    assert (await stranger.get(f"{ROOT}/static/{name}")).status_code in {303, 404}


def test_vendored_files_are_the_ones_that_the_table_names() -> None:
    folder = Path(assets.__file__).parent / "static" / "vendor"
    rows = re.findall(r"\| `([^`]+)` \| `([0-9a-f]{64})` \|", (folder / "README.md").read_text())
    assert len(rows) == 3
    for name, digest in rows:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert (folder / name).with_name("LICENSE.txt").exists()


async def _never_gone() -> bool:
    return False


async def test_the_stream_says_only_what_is_new(view) -> None:
    stream = changes(view, None, _never_gone)
    assert await anext(stream) == "retry: 2000\n\n"
    assert "event: hello" in await anext(stream)
    view.beat = 8
    event = await asyncio.wait_for(anext(stream), 60)
    assert event.startswith("id: 8\nevent: changed\n")


async def test_the_stream_resumes_after_the_last_event_seen(view) -> None:
    stream = changes(view, "3", _never_gone)
    await anext(stream)
    assert "event: changed" in await anext(stream)


async def test_the_stream_ends_when_the_browser_is_gone(view) -> None:
    async def gone() -> bool:
        return True

    assert len([event async for event in changes(view, None, gone)]) == 2


def test_curves_have_a_hole_where_a_metric_is_missing() -> None:
    found = curves(
        (Measure(1, {"f1": 0.5, "auc": 0.7}), Measure(2, {"f1": 0.6, "auc": 0.8, "loss": 0.4, "examples": 9}))
    )
    assert list(found["series"]) == ["auc", "loss", "f1"]
    found["series"].pop("f1")
    assert found == {"rounds": [1, 2], "series": {"auc": [0.7, 0.8], "loss": [None, 0.4]}}


async def test_the_auditors_page_says_what_was_checked(browser: httpx.AsyncClient, view) -> None:
    text = (await browser.get(f"{ROOT}/audit", params={"subject": " rnd_train3 "})).text
    assert "All 2 checks passed" in text
    assert "could see &lt;every&gt; single update" in text
    assert f"undersong verify rnd_train3 --evidence evidence.json --ca {'5e' * 32}" in text
    lie = CheckItem("roster", "failed", "The roster does not carry a valid signature.")
    view.audited = replace(view.audited, checks=(*view.audited.checks, lie))
    text = (await browser.get(f"{ROOT}/audit", params={"subject": "rnd_train3"})).text
    assert "1 of 3 checks failed" in text
    assert lie.sentence in text


async def test_the_auditors_page_shows_privacy_audits_and_a_broken_claim(browser: httpx.AsyncClient, view) -> None:
    address = {"url": f"{ROOT}/audit", "params": {"subject": "rnd_train3"}}
    text = (await browser.get(**address)).text
    assert "undersong audit ver_3" in text
    assert "The privacy claim is broken" not in text
    made = datetime(2026, 1, 1, tzinfo=UTC)
    fine = PrivacyAuditItem("loss-threshold", "AUC <b>0.5</b>", False, "usr_1", made)
    view.audited = replace(view.audited, privacy=(fine,))
    text = (await browser.get(**address)).text
    assert "AUC &lt;b&gt;0.5&lt;/b&gt;" in text
    assert "The privacy claim is broken" not in text
    view.audited = replace(view.audited, privacy=(fine, replace(fine, broken=True)))
    assert "The privacy claim is broken" in (await browser.get(**address)).text


@pytest.mark.parametrize("subject", ["rnd_unknown", "job_01running", "../x", "<b>", "ver_" + "0" * 99])
async def test_what_cannot_be_audited_is_said_on_the_page(browser: httpx.AsyncClient, subject: str) -> None:
    answer = await browser.get(f"{ROOT}/audit", params={"subject": subject})
    assert answer.status_code == 200
    assert "Nothing was checked" in answer.text
    assert "<b>" not in answer.text


@pytest.mark.parametrize(("state", "reason"), [("running", None), ("paused", "quorum"), ("failed", "quorum")])
async def test_a_job_that_does_not_get_on_says_why(browser: httpx.AsyncClient, view, state, reason) -> None:
    """While attempts fail, or the platform paused or ended the job, no page says that nothing is stuck."""
    causes = (
        CauseItem("recipe-error", "tabular has no parameter <lr>", 3),
        CauseItem("site-lost", "the site is away", 1),
    )
    view.all_jobs = [
        replace(view.all_jobs[0], state=state, reason=reason, last_failure="The deadline passed.", causes=causes)
    ]
    view.all_rounds = []
    for path in (ROOT, f"{ROOT}/jobs/job_01running"):
        text = (await browser.get(path)).text
        assert "Nothing is stuck" not in text
        assert "3 sites: tabular has no parameter &lt;lr&gt;" in text
        assert "1 site: the site is away" in text


async def test_a_job_names_its_columns_and_the_sites_page_compares_data_sets(browser: httpx.AsyncClient, view) -> None:
    view.all_jobs = [replace(view.all_jobs[0], features=("age",), label="sick", unused=(("<note>", "a text column"),),
                             cautions=("9 are <positives>",))]  # fmt: skip
    text = (await browser.get(f"{ROOT}/jobs/job_01running")).text
    for words in (
        "Columns",
        "<dd>age</dd>",
        "<dd>sick</dd>",
        "&lt;note&gt;",
        "a text column",
        "9 are &lt;positives&gt;",
    ):
        assert words in text
    view.all_comparisons = [
        ComparisonItem("heart", ("alpha", "beta"), ("the column 'age' is a number at alpha",), ("matched by <text>",),
                   (("gamma", "its agent has not <reported> yet"),))
    ]  # fmt: skip
    text = (await browser.get(f"{ROOT}/sites")).text
    for words in ("Data sets compared", "different", "is a number at alpha", "matched by &lt;text&gt;",
                  "not at gamma: its agent has not &lt;reported&gt; yet"):  # fmt: skip
        assert words in text


def test_a_metric_is_told_with_its_error_bound() -> None:
    metrics = {"auc": 0.9084, "auc_error": 0.00084, "examples": 1204.0}
    assert measured(metrics) == "auc 0.908 ±0.0008 · examples 1,204"
    assert curves([Measure(1, metrics)])["series"] == {"auc": [0.9084]}


async def test_a_job_shows_who_is_excluded_and_why(browser: httpx.AsyncClient, view) -> None:
    gone = ExclusionItem("leeds <x>", "rnd_01", "dealer-at-fault", "it dealt useless shares")
    view.all_jobs = [replace(view.all_jobs[0], excluded=(gone,))]
    text = (await browser.get(f"{ROOT}/jobs/job_01running")).text
    assert "Sites excluded from later rounds" in text
    assert "leeds &lt;x&gt;" in text
    assert "it dealt useless shares" in text


async def test_a_job_shows_each_sites_part_with_its_last_reason(browser: httpx.AsyncClient) -> None:
    text = (await browser.get(f"{ROOT}/jobs/job_01running")).text
    rows = {row.partition("</td>")[0].removeprefix("<td>"): row for row in table_rows(text, "participation")}
    assert set(rows) == {"Cleveland", "Hungary", "Switzerland", "Long Beach"}
    for site, words in {
        "Cleveland": ("1 × <code>wrong-share</code>",),
        "Hungary": ("<code>round-ended</code> no answer before the round ended", "/rounds/rnd_train2"),
        "Switzerland": ("<code>recipe-error</code>", "column &lt;chol&gt;", "never"),
        "Long Beach": ("2 × <code>shares-disputed</code>",),
    }.items():
        assert all(part in rows[site] for part in words), rows[site]


async def test_a_round_shows_who_is_at_fault_and_what_is_only_said(browser: httpx.AsyncClient) -> None:
    rows = table_rows((await browser.get(f"{ROOT}/rounds/rnd_train3")).text, "faults")
    assert [("at fault" in row, "disputed</span>" in row) for row in rows] == [
        (True, False),
        (True, False),
        (False, True),
    ]
    assert "<code>dealer-at-fault</code> it dealt shares that do not belong to its secrets" in rows[1]
    assert "&lt;site_01k1&gt; cannot use the shares" in rows[2]
    assert "Faults against the protocol" not in (await browser.get(f"{ROOT}/rounds/rnd_train2")).text


def table_rows(text: str, section: str) -> list[str]:
    """The rows of the table in a section of a page."""
    part = text.split(f'id="{section}"')[1].split("</section>")[0].split("<tbody>")[1]
    return [row.strip() for row in part.split("<tr>")[1:]]


async def test_the_privacy_page_tells_what_noise_bounds_and_what_nothing_bounds(browser: httpx.AsyncClient) -> None:
    """For each data set and unit, all jobs together and job by job; exact sums never look like a small epsilon."""
    text = " ".join(re.sub(r"<[^>]+>", " ", (await browser.get(f"{ROOT}/privacy")).text).split())
    assert "ε 3.21 for each site at δ 1e-06, 20 noisy sums" in text
    assert "no bound for each record at δ 1e-05, 2 noisy sums" in text
    assert "lungs 1 4 – 4 no bound 4 sealed weak" in text
    assert "job by job" in text
    assert "keeps no such budget" not in text


async def test_a_datasheet_is_a_page_that_models_and_jobs_lead_to(browser: httpx.AsyncClient) -> None:
    address = f"{ROOT}/versions/ver_5/datasheet"
    for path in ("/models", "/jobs/job_01running"):
        assert f'href="{address}"' in (await browser.get(ROOT + path)).text
    page = (await browser.get(address)).text
    assert "heart &lt;b&gt; version 2" in page
    for title in ("Claim for each site", "No guarantee", "Audits", "Utility", "Map to NIST SP 800-226"):
        assert f"<h2>{title}</h2>" in page
    assert "undersong datasheet ver_5 --html datasheet.html" in page
    assert "<h2>Owners&#39; ledgers</h2>" in page
    for form, holds in (("json", '{"signed": true}'), ("html", "<!doctype html>")):
        assert f'href="{address}.{form}"' in page
        file = await browser.get(f"{address}.{form}")
        assert f'filename="datasheet-ver_5.{form}"' in file.headers["content-disposition"]
        assert file.text.startswith(holds)
    missing = await browser.get(f"{ROOT}/versions/ver_6/datasheet")
    assert (missing.status_code, "ver_6" in missing.text) == (404, True)


async def test_jobs_are_compared_in_a_sorted_table(browser: httpx.AsyncClient) -> None:
    """Jobs without a value come last either way, and names stay text."""
    chosen = "jobs=job_03done&jobs=job_01running,job_02failed"
    for falling, first in (("true", "First try"), ("false", "Heart disease")):
        page = (await browser.get(f"{ROOT}/compare?{chosen}&sort=auc&falling={falling}")).text
        rows = page.split('id="results"')[1].split("<tbody>")[1].split("</tbody>")[0].split("<tr>")[1:]
        assert [first in rows[0], "Nightly" in rows[-1]] == [True, True]
        assert "<b>" not in page
    assert "/recipe/params/epochs" in page
    assert "undersong job compare job_03done job_01running job_02failed" in page


async def test_compared_jobs_come_as_csv_that_no_spreadsheet_runs(browser: httpx.AsyncClient, view) -> None:
    view.all_jobs[0] = replace(view.all_jobs[0], name="=HYPERLINK(1)")
    answer = await browser.get(f"{ROOT}/compare/curves.csv?jobs=job_01running,job_02failed")
    lines = list(csv.reader(io.StringIO(answer.text)))
    assert lines[0] == ["job_id", "job", "round", "seconds", "update_bytes", "auc", "loss"]
    assert len(lines) == 13
    assert {line[1] for line in lines[1:]} == {"'=HYPERLINK(1)"}
    table = list(csv.reader(io.StringIO((await browser.get(f"{ROOT}/compare/table.csv?jobs=job_01running")).text)))
    assert table[1][:3] == ["job_01running", "'=HYPERLINK(1)", "running"]


async def test_a_curve_of_the_plot_has_few_points_and_its_last(browser: httpx.AsyncClient, view) -> None:
    values = list(range(20_001))
    curve = CurveView(rounds=values, seconds=[float(n) for n in values], update_bytes=None, metrics={"auc": values})
    found = await view.compare(["job_01running"])
    job = found.jobs[0].model_copy(update={"curve": curve})
    drawn_ = drawn(found.model_copy(update={"jobs": [job]}), "auc")["curves"][0]
    assert len(drawn_["values"]) == 250
    assert (drawn_["values"][0], drawn_["values"][-1], drawn_["rounds"][-1]) == (0.0, 20_000.0, 20_000)
    assert (await browser.get(f"{ROOT}/compare/curves?jobs=job_01running&metric=none")).status_code == 404


async def test_a_job_is_run_again_from_the_editor_with_faults_beside_their_lines(
    browser: httpx.AsyncClient, view
) -> None:
    page = (await browser.get(f"{ROOT}/submit?job=job_01running")).text
    assert "rounds: 12" in page
    mark = await csrf(browser)
    form = {"csrf": mark, "source": "job_01running", "document": "name: again\r\nrounds: many\r\n", "act": "submit"}
    refused = await browser.post(f"{ROOT}/submit", data=form)
    assert refused.status_code == 422
    listing = refused.text.split('class="listing"')[1].split("</ol>")[0].split("<li")
    assert "/data/label: this field is required" in listing[1], "what is missing stands at the top"
    assert "/rounds: at least 1 &lt;b&gt;" in listing[2]
    assert "rounds: many" in refused.text.split("<textarea")[1]
    assert len(view.all_jobs) == 4
    good = {**form, "document": "name: again\nrounds: 3\ndata: {dataset: heart}\n"}
    assert "The job is valid" in (await browser.post(f"{ROOT}/submit", data={**good, "act": "check"})).text
    assert len(view.all_jobs) == 4
    made = await browser.post(f"{ROOT}/submit", data=good)
    assert (made.status_code, made.headers["location"]) == (303, f"{ROOT}/jobs/job_05new")
    assert (await browser.post(f"{ROOT}/submit", data={**good, "csrf": "x"})).status_code == 403


MULTIPLIED = ", ".join(["*{0}"] * 9)


def bomb(form: str, first: str) -> str:
    """Return a text whose aliases make nine times as many places with each of nine lines."""
    names = "abcdefghij"
    lines = [f"{after}: &{after} {form.format(MULTIPLIED.format(name))}" for name, after in pairwise(names)]
    return "\n".join([f"a: &a {first}", *lines])


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "a: b: c", "rounds: .nan", "a: &x [*x]", "a: 1\na: 2", "a: '\\0'", "[" * 9000, "- " * 9000,
     "{a: " * 40 + "1" + "}" * 40, "a:\n" * 9000, "a: !!bool x", bomb("[{}]", "[1, 1]"),
     bomb("{{<<: [{}]}}", "{x: 1}")],
)  # fmt: skip
async def test_what_is_no_job_document_is_told_and_costs_little(browser: httpx.AsyncClient, text: str) -> None:
    """Also a text that aliases make a billion places of, and one that holds itself."""
    form = {"csrf": await csrf(browser), "document": text, "act": "submit"}
    began = time.monotonic()
    answer = await browser.post(f"{ROOT}/submit", data=form)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert time.monotonic() - began < 5


def test_keys_are_texts_as_in_json_and_a_fault_is_told_once() -> None:
    assert editor.read("true: 1\nnull: {1: 2}") == {"true": 1, "null": {"1": 2}}
    with pytest.raises(editor.NoJobDocument) as refused:
        editor.read("- 1")
    assert refused.value.detail == "The text holds no mapping of settings, such as `rounds: 10`."


async def test_a_document_too_large_for_the_editor_is_refused(browser: httpx.AsyncClient) -> None:
    form = {"csrf": await csrf(browser), "document": "a" * 70_000}
    assert (await browser.post(f"{ROOT}/submit", data=form)).status_code == 413


async def test_the_list_of_jobs_is_filtered_and_renews_itself_as_filtered(browser: httpx.AsyncClient, view) -> None:
    page = (await browser.get(f"{ROOT}/jobs?name=Heart&state=running&sort=name&owner=&after=job_x")).text
    assert (view.chosen.name, view.chosen.state, view.chosen.sort, view.chosen.owner) == (
        "Heart", "running", "name", None,
    )  # fmt: skip
    assert 'hx-get="/dashboard/jobs?name=Heart&amp;state=running&amp;sort=name&amp;after=job_x"' in page
    assert "Nightly" not in page
    assert 'href="/dashboard/jobs?tag=sweep%3Adepth"' in page
    none = (await browser.get(f"{ROOT}/jobs?name=%3Cb%3Enothing&state=odd&sort=odd")).text
    assert view.chosen.state is None
    assert "No job fits the filter" in none
    assert 'value="&lt;b&gt;nothing"' in none
