"""Sign-on at the dashboard: through a real issuer and back, and every answer that is not what was asked for."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey

from tests.effort import also
from tests.services.coordinator.signing_on import LASTS_S, ROOT, Platform, platform
from tests.services.coordinator.world import make_world


@pytest.fixture
async def signing(sqlite_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Platform]:
    async with make_world(sqlite_url, redis_url, tmp_path) as world, platform(world) as made:
        yield made


async def refused(signing: Platform, status: int = 403) -> str:
    """Sign on, which must not work; the page says why."""
    browser = signing.browser()
    answer = await signing.signed_on(browser)
    assert answer.status_code == status, answer.text
    assert "undersong_session" not in browser.cookies
    assert (await browser.get(ROOT)).status_code == 303
    assert await signing.users() == {}
    return answer.text


async def test_a_person_signs_on_and_lands_on_the_page_that_was_wanted(signing: Platform) -> None:
    browser = signing.browser()
    first = await browser.get(f"{ROOT}/keys")
    form = await browser.get(first.headers["location"])
    assert "Sign on with 127.0.0.1:1" in form.text
    style = form.text.split('rel="stylesheet" href="')[1].split('"')[0]
    assert (await browser.get(style)).status_code == 200, "files carry a version, which no operation knows"
    answer = await signing.signed_on(browser, f"{ROOT}/jobs")
    assert f'content="0;url={ROOT}/jobs"' in answer.text
    page = await browser.get(f"{ROOT}/jobs")
    assert page.status_code == 200
    assert "ada" in page.text
    assert await signing.users() == {"ada": [("admin", None)]}
    assert [name for name in browser.cookies if "signon" in name] == []


async def test_a_sign_on_ends_in_its_time_and_by_signing_out(signing: Platform) -> None:
    browser, other = signing.browser(), signing.browser()
    await signing.signed_on(browser)
    await signing.signed_on(other)
    csrf = (await browser.get(ROOT)).text.split('name="csrf" value="')[1].split('"')[0]
    out = await browser.post(f"{ROOT}/logout", data={"csrf": csrf})
    assert out.headers["location"] == f"{ROOT}/signed-out"
    assert "http://127.0.0.1:1/end?client_id=undersong" in (await browser.get(f"{ROOT}/signed-out")).text
    assert (await browser.get(ROOT)).status_code == 303
    assert (await other.get(ROOT)).status_code == 200
    signing.world.clock.advance(LASTS_S + 1)
    assert (await other.get(ROOT)).status_code == 303


async def test_groups_are_read_again_at_each_sign_on(signing: Platform) -> None:
    heart = await signing.world.federation()
    signing.issuer.groups = ["fl-science", "staff"]
    browser = signing.browser()
    await signing.signed_on(browser)
    assert await signing.users() == {"ada": [("scientist", heart)]}
    lungs = await signing.world.federation("lungs")
    signing.issuer.groups = ["fl-two"]
    await signing.signed_on()
    assert await signing.users() == {"ada": sorted([("auditor", heart), ("auditor", lungs), ("owner", heart)])}
    signing.issuer.groups = []
    gone = await signing.signed_on()
    assert (gone.status_code, "none of your groups" in gone.text) == (403, True)
    assert await signing.users() == {"ada": []}
    assert (await browser.get(ROOT)).status_code == 303, "what earlier sign-ons made is revoked"
    noted = (await signing.world.admin.get("/v1/audit-entries")).json()["items"]
    changes = [(each["data"]["had"], each["data"]["roles"]) for each in noted if each["action"] == "user.sign-on"]
    assert len(changes) == 5
    assert changes[-1] == ([], ["scientist"])
    assert changes[0][1] == []


@pytest.mark.parametrize(
    "groups", [[], ["staff"], ["fl-nowhere"], "admin", {"fl-admins": True}, None, [["fl-admins"]], ["FL-ADMINS"]]
)
async def test_without_a_group_that_gives_a_role_no_user_is_created(signing: Platform, groups: Any) -> None:
    signing.issuer.groups = groups
    assert "none of your groups" in await refused(signing)


async def test_a_name_that_is_taken_gives_nothing_of_the_account_that_has_it(signing: Platform) -> None:
    """The issuer's name for a person is what counts: `admin` of the issuer is not the platform's."""
    heart = await signing.world.federation()
    signing.issuer.name, signing.issuer.groups = "admin", ["fl-science"]
    await signing.signed_on()
    signing.issuer.subject = "sub-eve"
    await signing.signed_on()
    scientist = [("scientist", heart)]
    assert await signing.users() == {"admin (sub-ada)": scientist, "admin (sub-eve)": scientist}


HOUR = 3600
BAD_CLAIMS: dict[str, dict[str, Any]] = {
    "another audience": {"aud": "other"},
    "no audience": {"aud": None},
    "several audiences without a party": {"aud": ["undersong", "other"]},
    "another party": {"azp": "other"},
    "another issuer": {"iss": "http://127.0.0.1:2"},
    "expired": {"exp": int(time.time()) - 120},
    "without an end": {"exp": None},
    "an end that is no number": {"exp": "never"},
    "of the future": {"iat": int(time.time()) + HOUR},
    "not yet": {"nbf": int(time.time()) + HOUR},
    "without its time": {"iat": None},
    "no nonce": {"nonce": None},
    "another nonce": {"nonce": "guessed"},
    "nonces": {"nonce": ["a", "b"]},
    "no subject": {"sub": None},
    "an empty subject": {"sub": ""},
    "a long subject": {"sub": "x" * 256},
}


USUAL = ("another audience", "several audiences without a party", "another issuer", "expired", "no nonce", "no subject")


@pytest.mark.parametrize("case", [*USUAL, *also(*(name for name in BAD_CLAIMS if name not in USUAL))])
async def test_an_id_token_for_something_else_does_not_count(signing: Platform, case: str) -> None:
    signing.issuer.faults.claims = BAD_CLAIMS[case]
    assert "not count" in await refused(signing)


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
async def test_algorithms_that_prove_nothing_are_refused(signing: Platform, algorithm: str) -> None:
    signing.issuer.faults.algorithm = algorithm
    assert "not count" in await refused(signing)


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
async def test_the_other_algorithms_of_the_list_count(signing: Platform, algorithm: str) -> None:
    signing.issuer.faults.algorithm = algorithm
    assert (await signing.signed_on()).status_code == 200


async def test_a_signature_by_another_key_of_the_same_name_is_refused(signing: Platform) -> None:
    signing.issuer.faults.key = RSAKey.generate_key(2048, {"kid": "rsa"})
    assert "not count" in await refused(signing)
    own = signing.issuer.faults.key.as_dict(private=False)
    signing.issuer.faults.header = {"jwk": own, "jku": "https://evil.example/jwks"}  # a key that the token brings along
    assert "not count" in await refused(signing)


async def test_a_rotated_key_is_found_without_asking_at_every_token(signing: Platform) -> None:
    assert (await signing.signed_on()).status_code == 200
    signing.issuer.rotate()
    await signing.signed_on()
    assert signing.issuer.asked.count("jwks") == 1, "not within the floor"
    signing.ticks[0] += 31
    assert (await signing.signed_on()).status_code == 200
    signing.issuer.faults.key = RSAKey.generate_key(2048, {"kid": "unknown"})
    for _ in range(3):
        assert (await signing.signed_on()).status_code == 403
    assert signing.issuer.asked.count("jwks") == 2
    assert signing.issuer.asked.count("discovery") == 1


async def test_an_answer_is_good_once_and_in_the_browser_that_asked(signing: Platform) -> None:
    browser, thief = signing.browser(), signing.browser()
    back = await signing.go(browser)
    assert "not begun in this browser" in (await thief.get(back)).text
    kept = dict(browser.cookies)
    assert (await browser.get(back)).status_code == 200
    assert "not begun in this browser" in (await browser.get(back)).text, "the cookie is gone"
    asked = signing.issuer.asked.count("token")
    thief.cookies.update({name: value for name, value in kept.items() if "signon" in name})
    assert "used before" in (await thief.get(back)).text, "a copied cookie is worth nothing after its use"
    assert signing.issuer.asked.count("token") == asked


async def test_of_two_answers_at_once_one_counts(signing: Platform) -> None:
    browser = signing.browser()
    back = await signing.go(browser)
    codes = [answer.status_code for answer in await asyncio.gather(*(browser.get(back) for _ in range(4)))]
    assert sorted(codes) == [200, 403, 403, 403]


async def test_a_changed_or_late_answer_is_refused(signing: Platform) -> None:
    browser = signing.browser()
    back = await signing.go(browser)
    query = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
    for changed in ({"state": "x"}, {"state": ""}, {"state": "\u00e9" * 9}):
        assert (await browser.get(f"{ROOT}/sign-on/callback", params={**query, **changed})).status_code == 403
    signing.world.clock.advance(601)
    assert "longer than ten minutes" in (await browser.get(back)).text


@pytest.mark.parametrize("named", ["https://evil.example", None, ""])
async def test_an_answer_of_another_issuer_or_of_none_is_refused(signing: Platform, named: str | None) -> None:
    """RFC 9207: the code is sent to no one else."""
    signing.issuer.faults.named = named
    assert "mixed-up" in await refused(signing)
    assert "token" not in signing.issuer.asked


async def test_another_verifier_than_the_challenges_is_refused_by_the_issuer(signing: Platform) -> None:
    """Two tabs, whose codes are exchanged: PKCE ties each to its own."""
    browser = signing.browser()
    one, two = [parse_qs(urlsplit(await signing.go(browser)).query) for _ in range(2)]
    mixed = {"state": one["state"][0], "code": two["code"][0], "iss": one["iss"][0]}
    answer = await browser.get(f"{ROOT}/sign-on/callback", params=mixed)
    assert (answer.status_code, "invalid_grant" in answer.text) == (403, True)


async def test_two_tabs_sign_on_at_once(signing: Platform) -> None:
    browser = signing.browser()
    one, two = await signing.go(browser, f"{ROOT}/sites"), await signing.go(browser, f"{ROOT}/models")
    assert f"url={ROOT}/models" in (await browser.get(two)).text
    assert f"url={ROOT}/sites" in (await browser.get(one)).text
    assert (await browser.get(ROOT)).status_code == 200


@pytest.mark.parametrize(
    "wanted", ["https://evil.example", "//evil.example", "/v1/jobs", "/dashboard//evil", "/dashboard\\e",
               "/dashboardx", "javascript:alert(1)", "/dashboard/\r\nx: y", '/dashboard/"><b>'],
)  # fmt: skip
async def test_a_sign_on_never_leads_elsewhere(signing: Platform, wanted: str) -> None:
    answer = await signing.signed_on(wanted=wanted)
    assert "<b>" not in answer.text
    target = answer.text.split('content="0;url=')[1].split('">')[0]
    assert target == ROOT or target.startswith(f"{ROOT}/&#34;")


async def test_what_the_issuer_says_against_it_is_shown_in_our_words(signing: Platform) -> None:
    browser = signing.browser()
    query = {name: values[0] for name, values in parse_qs(urlsplit(await signing.go(browser)).query).items()}
    said = {
        "state": query["state"],
        "iss": query["iss"],
        "error": "access_denied",
        "error_description": "<b>call us</b>",
    }
    answer = await browser.get(f"{ROOT}/sign-on/callback", params=said)
    assert (answer.status_code, "access was denied" in answer.text, "call us" in answer.text) == (403, True, False)


@pytest.mark.parametrize(
    "discovery",
    [{"issuer": "https://evil.example"}, {"token_endpoint": "http://evil.example/token"}, {"jwks_uri": None}],
)
async def test_a_discovery_document_that_is_not_the_issuers_is_refused(
    signing: Platform, discovery: dict[str, Any]
) -> None:
    signing.issuer.faults.discovery = discovery
    begun = await signing.browser().get(f"{ROOT}/sign-on")
    assert begun.status_code == 503


async def test_an_issuer_that_is_away_is_not_asked_at_every_click(signing: Platform) -> None:
    signing.issuer.faults.away = True
    for _ in range(5):
        assert (await signing.browser().get(f"{ROOT}/sign-on")).status_code == 503
    assert signing.issuer.asked.count("discovery") == 1
    signing.issuer.faults.away, signing.ticks[0] = False, 10.0
    assert (await signing.signed_on()).status_code == 200


async def test_the_issuer_is_not_asked_by_every_made_up_code(signing: Platform) -> None:
    """All at once: the limit fills up with time, and a loaded machine takes long for one after another."""
    browsers, made_up = [signing.browser() for _ in range(80)], []
    for browser in browsers:
        begun = await browser.get(f"{ROOT}/sign-on")
        query = parse_qs(urlsplit(begun.headers["location"]).query)
        made_up.append({"state": query["state"][0], "code": "guess", "iss": signing.issuer.url})
    asked = (each.get(f"{ROOT}/sign-on/callback", params=given) for each, given in zip(browsers, made_up, strict=True))
    codes = [answer.status_code for answer in await asyncio.gather(*asked)]
    assert codes.count(429) >= 1
    assert signing.issuer.asked.count("token") == codes.count(403)


@pytest.mark.both_databases
async def test_of_one_person_who_signs_on_twice_at_once_one_user_is_created(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with make_world(database_url, redis_url, tmp_path) as world, platform(world) as made:
        for groups in (["fl-admins"], [], ["fl-admins"]):
            made.issuer.groups = groups
            answers = await asyncio.gather(*(made.signed_on() for _ in range(4)))
            assert {answer.status_code for answer in answers} == {200 if groups else 403}
            assert await made.users() == {"ada": [("admin", None)] if groups else []}


async def test_a_token_with_scopes_is_no_sign_in(signing: Platform) -> None:
    made = (await signing.world.admin.post("/v1/tokens", json={"name": "narrow", "scopes": ["jobs:write"]})).json()
    browser = signing.browser()
    answer = await browser.post(f"{ROOT}/login", data={"token": made["token"]})
    assert (answer.status_code, "without scopes" in answer.text) == (403, True)
    assert "undersong_session" not in browser.cookies


async def test_no_secret_is_in_an_address_a_page_or_a_log(
    signing: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    browser = signing.browser()
    begun = await browser.get(f"{ROOT}/sign-on")
    address = begun.headers["location"]
    assert "s3cret" not in address
    assert "code_verifier" not in address
    answer = await signing.signed_on(browser)
    assert "ust_" not in answer.text
    assert "ust_" not in str(answer.headers)
    await refused_once(signing, browser)
    out = "".join(capsys.readouterr())
    assert not [word for word in ("s3cret", "ust_", "eyJ") if word in out]


async def refused_once(signing: Platform, browser: httpx.AsyncClient) -> None:
    signing.issuer.faults.claims = {"aud": "other"}
    assert (await signing.signed_on(browser)).status_code == 403
