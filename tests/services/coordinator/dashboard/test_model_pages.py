"""Pages of models: versions in their order, aliases with the person's own token, differences, files."""

import re

import httpx

from tests.services.coordinator.dashboard.conftest import csrf
from tests.services.coordinator.dashboard.models import make_version

MODEL = "/dashboard/models/mdl_1"


async def test_a_model_shows_its_versions_the_best_by_a_metric_first(browser: httpx.AsyncClient) -> None:
    assert f'href="{MODEL}"' in (await browser.get("/dashboard/models")).text
    page = (await browser.get(MODEL)).text
    assert "heart &lt;b&gt;" in page
    order = [page.index(f"/dashboard/audit?subject=ver_{number}") for number in (4, 3, 2, 1, 0)]
    assert order == sorted(order), "newest first"
    best = (await browser.get(f"{MODEL}?metric=auc")).text
    order = [best.index(f"/dashboard/audit?subject=ver_{number}") for number in (3, 4, 2, 1, 0)]
    assert order == sorted(order), "the best first, those without a value last"
    assert best.index("best auc") < best.index("subject=ver_4"), "version 3 is the best"
    assert page.count("<circle") == 5
    assert "ada &lt;b&gt;" in page
    one = (await browser.get(f"{MODEL}?job=job_1")).text
    assert 'subject=ver_4" aria-label' not in one
    assert (await browser.get("/dashboard/models/mdl_2")).status_code == 404


async def test_an_alias_is_moved_with_the_persons_token_from_our_page_only(browser: httpx.AsyncClient, view) -> None:
    form = {"alias": "champion", "version": "ver_2", "reason": " the best "}
    for path in ("set", "remove"):
        assert (await browser.post(f"{MODEL}/aliases/{path}", data=form)).status_code == 403
        answer = await browser.post(f"{MODEL}/aliases/{path}", data=form | {"csrf": await csrf(browser)})
        assert answer.status_code == 303
    assert view.plain_models.done == [
        ("point", "ust_test-token", "mdl_1", "champion", "ver_2", "the best"),
        ("remove", "ust_test-token", "mdl_1", "champion"),
    ]  # fmt: skip
    view.plain_models.writes = False
    assert "aliases/set" not in (await browser.get(MODEL)).text


async def test_many_versions_come_in_parts(browser: httpx.AsyncClient, view) -> None:
    view.plain_models.versions = [make_version(number) for number in range(120)]
    view.plain_models.model_ = view.plain_models.model_.model_copy(update={"aliases": {"champion": "ver_3"}})
    first, last = [(await browser.get(f"{MODEL}?page={page}")).text for page in (1, 3)]
    assert "number 3<" in first, "an alias names its version on each page"
    assert [len(re.findall('aria-label="Evidence of version', page)) for page in (first, last)] == [50, 20]
    assert "page=2" in first
    assert "Previous versions" not in first
    assert "page=4" not in last
    assert (await browser.get(f"{MODEL}?page=0")).status_code == 422
    assert "No version" in (await browser.get(f"{MODEL}?page=4")).text


async def test_two_versions_are_compared(browser: httpx.AsyncClient) -> None:
    page = (await browser.get(f"{MODEL}/comparison?first=1&second=3")).text
    assert "+0.2" in page
    assert "/rounds" in page
    assert "undersong model diff ver_1 ver_3" in page
    wrong = await browser.get(f"{MODEL}/comparison?first=x&second=3")
    assert (wrong.status_code, wrong.headers["content-type"]) == (422, "text/html; charset=utf-8")
    assert "first: " in wrong.text


async def test_a_file_comes_under_its_models_name(browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/dashboard/versions/ver_3/model.safetensors")
    assert answer.content == b"onever_3"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''heart%20%C3%A4-3.safetensors"
