"""A datasheet says the same number as the sites' ledgers, tells what it does not bound, and cannot be forged."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.shared.transparency.bundles import NOW, Federation
from tests.shared.transparency.sheets import SUBJECT, exact, noisy, sheet, terms
from tests.shared.wire.manifests import manifest
from undersong.shared.errors import Forbidden
from undersong.shared.identity.authority import Subject
from undersong.shared.privacy.accounting import epsilon_of
from undersong.shared.secagg.private import plan_noisy
from undersong.shared.sections import Section, html_page, markdown_page
from undersong.shared.transparency.datasheet import (
    Datasheet,
    SheetAudit,
    SheetUtility,
    SignedDatasheet,
    check_datasheet,
    sign_datasheet,
)
from undersong.shared.transparency.datasheet_making import SheetFacts, make_datasheet
from undersong.shared.transparency.datasheet_words import headline, sections, title_of
from undersong.shared.transparency.releases import Release, UnitCost, costs_of, together
from undersong.shared.wire.manifest import RoundKind
from undersong.shared.wire.privacy import GaussianEvent, PoissonGaussianEvent, PrivacyUnit


def gaps(made: Datasheet) -> dict[str, int | None]:
    return {gap.what: gap.releases for gap in made.gaps}


def test_a_private_version_claims_what_the_ledgers_charge() -> None:
    releases = [noisy() for _ in range(3)]
    made = sheet(exact(RoundKind.STATISTICS), *releases, exact(RoundKind.EVALUATE))
    (claim,) = made.claims
    events = [release.event for release in releases]
    assert claim.epsilon == epsilon_of(events, 1e-6)
    assert claim.planned_epsilon == pytest.approx(epsilon_of([events[0]] * 10, 1e-6))
    assert (claim.unit, claim.neighbours, claim.delta, claim.released, claim.exact) == (
        "site", "add or remove one", 1e-6, 3, 2
    )  # fmt: skip
    (one,) = claim.mechanisms
    assert (one.model, one.noise_multiplier, one.clip_norm, one.min_sites, one.released, one.planned) == (
        "distributed", 5.0, 1.0, 2, 3, 10
    )  # fmt: skip
    assert claim.accountant == "dp-accounting"
    assert claim.accountant_version[0].isdigit()
    found = gaps(made)
    assert (found["evaluations"], found["statistics without noise"]) == (1, 1)
    assert "training without noise" not in found
    assert "noise that a dishonest site leaves out" in found
    assert [engine.engine for engine in made.engines] == ["pairwise", "sealed"]
    assert all(engine.collusion for engine in made.engines)
    (data,) = made.data
    assert (data.dataset, data.features, data.label, data.fewest_sites, data.most_sites) == (
        "heart", ("age",), "target", 3, 3
    )  # fmt: skip
    assert f"epsilon {claim.epsilon:.4g}" in headline(made)
    assert "2 exact answers" in headline(made)


def test_two_servers_do_not_rest_on_the_sites() -> None:
    made = sheet(noisy("server", "twoserver"))
    assert made.claims[0].epsilon == epsilon_of([GaussianEvent(noise_multiplier=5.0)], 1e-6)
    assert "noise that a dishonest site leaves out" not in gaps(made)


def test_an_exact_version_claims_nothing() -> None:
    made = sheet(exact(RoundKind.TRAIN), exact(RoundKind.TRAIN), exact(RoundKind.EVALUATE))
    assert made.claims == ()
    assert gaps(made)["training without noise"] == 2
    assert headline(made).startswith("Sums were opened exactly: no epsilon")


def test_a_version_that_depends_on_no_data_tells_nothing() -> None:
    made = sheet()
    assert (made.claims, made.data, made.engines) == ((), (), ())
    assert headline(made).startswith("No sum over data was opened")


def test_before_the_first_noisy_round_only_the_plan_is_told() -> None:
    made = make_datasheet(SheetFacts(SUBJECT, (), terms()), NOW)
    (claim,) = made.claims
    assert (claim.epsilon, claim.released, claim.planned_epsilon) == (0.0, 0, 4.0)
    assert claim.mechanisms[0].planned == 10


def test_ancestors_are_composed_and_another_strength_gets_a_line_of_its_own() -> None:
    """The strictest delta of all holds for the claim; the ancestor's plan is not counted, its releases are."""
    before = [noisy(job="job_0", noise_multiplier=3.0, delta=1e-8) for _ in range(2)]
    after = [noisy() for _ in range(2)]
    made = make_datasheet(SheetFacts(SUBJECT, (*before, *after), terms()), NOW)
    (claim,) = made.claims
    events = [release.event for release in (*before, *after)]
    assert claim.delta == 1e-8
    assert claim.epsilon == epsilon_of(events, 1e-8)
    assert claim.planned_epsilon == pytest.approx(epsilon_of([*events, *[after[0].event] * 8], 1e-8))
    assert [(one.job_id, one.released) for one in claim.mechanisms] == [("job_0", 2), ("job_1", 2)]


def test_a_clip_norm_that_moves_is_one_mechanism_with_its_path() -> None:
    rule = {"quantile": 0.5, "rate": 0.2, "start": 4.0}
    rounds = [noisy(clip_norm=norm, adaptive_clip=rule) for norm in (4.0, 3.6, 3.7)]
    made = make_datasheet(SheetFacts(SUBJECT, rounds, terms(adaptive_clip=rule)), NOW)
    (claim,) = made.claims
    (one,) = claim.mechanisms
    assert (one.clip_norm, one.clip_path, one.released) == (None, (4.0, 3.6, 3.7), 3)
    assert claim.epsilon == pytest.approx(sheet(noisy(), noisy(), noisy()).claims[0].epsilon, rel=1e-6)
    assert "moves to their 0.5 quantile, from 4 to 3.7" in str(sections(made))
    assert any("L2 norm of 3.6 to 4" in answer.answer for answer in made.nist)


def test_units_are_never_added_up() -> None:
    room = {"modulus_bits": 64, "max_summands": 3, "bound": 2**40, "scale": 2.0**20, "max_weight": 1}
    recipe = {"name": "statistics", "digest": "0" * 64}
    asked = {"engine": "pairwise", "length": 4, "encoding": room, "privacy": terms(unit="record"), "recipe": recipe}
    record = Release(manifest(RoundKind.STATISTICS, **asked), 3)
    site = noisy()
    costs = costs_of([record, site, site])
    assert {(str(cost.unit), cost.releases) for cost in costs} == {("site", 2), ("record", 1)}
    assert {cost.unit: cost.epsilon for cost in together(costs)} == {cost.unit: cost.epsilon for cost in costs}


def test_turns_with_less_noise_than_the_first_are_paid_for() -> None:
    """Two rounds of one turn cost one; a job whose terms changed pays for what each of them promised."""
    turns = {"separation": 4, "participations": 3}

    def row(number: int, noise: float) -> Release:
        promised = terms("server", noise_multiplier=noise, correlated=turns)
        encoding = plan_noisy(summands=3, clip_norm=1.0, modulus_bits=64, terms=promised)
        return Release(manifest(engine="twoserver", privacy=promised, encoding=encoding, noise_row=number), 3, 1000)

    (alike,) = costs_of([row(1, 5.0), row(2, 5.0)])
    assert alike.epsilon == pytest.approx(epsilon_of([row(1, 5.0).event], 1e-6))
    (unlike,) = costs_of([row(1, 5.0), row(2, 0.5)])
    assert unlike.epsilon == pytest.approx(epsilon_of([row(1, 5.0).event, row(2, 0.5).event], 1e-6))


def test_noise_for_one_unit_is_no_claim_for_the_other() -> None:
    """A version trained on with noise for records, from one with noise for sites."""
    steps = {"count": 5, "probability": 0.1, "clip_norm": 1.0}
    inside = terms("record", unit="record", steps=steps)
    equal = manifest().encoding.model_copy(update={"max_weight": 1})  # type: ignore[union-attr]
    record = Release(manifest(privacy=inside, job_id="job_1", encoding=equal), 3, 1000)
    made = make_datasheet(SheetFacts(SUBJECT, (noisy(job="job_0"), noisy(job="job_0"), record), inside), NOW)
    assert [(claim.unit, claim.released) for claim in made.claims] == [("site", 2), ("record", 1)]
    found = gaps(made)
    assert found["rounds whose noise protects records, for a site"] == 1
    assert found["rounds whose noise protects sites, for a record"] == 2
    assert "Neither of the two covers the other's rounds." in headline(made)
    text = markdown_page(title_of(made), sections(made))
    assert "2 rounds whose noise protects another unit beside them" in text
    assert "1 round whose noise protects another unit beside them" in text
    assert "No exact answer" not in text
    assert "rounds whose noise protects records, for a site" not in gaps(sheet(noisy()))


def test_attempts_at_a_round_that_failed_do_not_shorten_the_plan() -> None:
    one = noisy()
    failed = replace(one, contributors=None)
    (claim,) = sheet(one, failed).claims
    assert claim.released == 2
    assert claim.planned_epsilon == pytest.approx(epsilon_of([one.event] * 11, 1e-6))


def test_many_different_costs_are_told_quickly_and_never_too_small() -> None:
    events = tuple(PoissonGaussianEvent(noise_multiplier=1 + at / 9, probability=0.1, count=9) for at in range(5))
    tight, told = epsilon_of(events, 1e-5), UnitCost(PrivacyUnit.RECORD, 5, events, 1e-5).epsilon
    assert told is not None
    assert tight <= told <= 1.01 * tight


def test_a_round_that_failed_while_it_was_opened_counts() -> None:
    made = sheet(noisy(), replace(noisy(), contributors=None))
    assert made.claims[0].released == 2
    assert gaps(made)["rounds that failed while their sum was being opened"] == 1


def test_an_unknown_ancestor_and_audits_are_told() -> None:
    auc = {"value": 0.54321, "low": 0.44, "high": 0.64}
    figures = {"right": 98, "interval": [0.1, 0.2], "auc": auc, "others": {"first": 0.123456}}
    audit = SheetAudit(kind="one-run-mechanism", sentence="98 of 100 <i>", figures=figures, confidence=0.95,
                       epsilon_lower_bound=2.69, broken=True, recorded_by="ada", recorded_at=NOW)  # fmt: skip
    made = sheet(noisy(), unknown=("ver_0",), audits=(audit,), claim_broken=True,
                 utility=SheetUtility(metrics={"auc": 0.8}))  # fmt: skip
    assert "the origin of ver_0" in gaps(made)
    assert made.unknown == ("ver_0",)
    assert headline(made).startswith("An audit refuted")
    text = markdown_page(title_of(made), sections(made))
    assert "2.69 at 95% confidence" in text
    assert "auc 0.8" in text
    assert "auc 0.5432 (0.44 to 0.64), others first 0.1235" in text


def test_every_topic_of_the_guidelines_has_an_answer() -> None:
    for made in (sheet(), sheet(noisy()), sheet(exact(RoundKind.TRAIN))):
        assert [row.topic for row in made.nist] == [
            "Privacy parameters",
            "Unit of privacy and neighbouring data sets",
            "Bounded contribution (sensitivity)",
            "Mechanism and floating-point hazards",
            "Data collection exposure and trust",
            "Composition and privacy budget",
            "Utility and bias",
            "Testing",
            "Access control and deployment",
        ]
        assert all(row.answer for row in made.nist)


def test_the_signature_holds_for_this_sheet_and_this_coordinator_alone() -> None:
    federation, stranger = Federation(), Federation()
    signed = sign_datasheet(sheet(noisy()), federation.identities["coordinator"])
    again = SignedDatasheet.model_validate_json(signed.model_dump_json())
    spelled = ":".join(federation.fingerprint[at : at + 2] for at in range(0, 64, 2)).upper()
    assert check_datasheet(again, f"SHA256:{spelled}") == signed.datasheet
    lowered = json.loads(signed.model_dump_json())
    lowered["datasheet"]["claims"][0]["epsilon"] = 0.1
    forged = [
        SignedDatasheet.model_validate(lowered),
        sign_datasheet(signed.datasheet, federation.identities["aggregator"]),
        sign_datasheet(signed.datasheet, federation.identity(Subject("site", "site_9", "fed_1"))),
        sign_datasheet(signed.datasheet, stranger.identities["coordinator"]),
        signed.model_copy(
            update={"authority": sign_datasheet(signed.datasheet, stranger.identities["keys"]).authority}
        ),
        signed.model_copy(update={"signature": "00" * 64}),
        signed.model_copy(update={"certificate": "30"}),
    ]
    for one in forged:
        with pytest.raises(Forbidden):
            check_datasheet(one, federation.fingerprint)


class Texts(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_names_as_they_are_and_runs_nothing() -> None:
    made = sheet(noisy())
    page = Texts(html_page(title_of(made), sections(made)))
    assert {"script", "b", "link", "img"}.isdisjoint(page.tags)
    assert "heart <b> version 2" in page.text
    assert page.tags.count("h2") == len(sections(made))
    hostile = Section("a|b", ("<script>*x*</script>",), (), (("[k](http://x)", "1\n2"),))
    assert "a\\|b" in markdown_page("t", [hostile])
    assert "<script>" not in markdown_page("t", [hostile])
    assert "1 2" in markdown_page("t", [hostile])
