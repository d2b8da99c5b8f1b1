"""`undersong privacy …`: what a job's noise costs before it runs, as a table and as curves."""

import math
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from rich.table import Table

from undersong.cli import common, figures
from undersong.cli.jobs import SpecFile, read_spec
from undersong.client.types import ClippingPlan, PrivacyPlan

app = typer.Typer(no_args_is_help=True, help="What noise costs, and what it bounds.")
LENGTHS: Final = (100, 10_000, 1_000_000)
BARELY: Final = 1.0
"""Noise as large as the clip norm: a single round moves a model in no useful direction."""
Parameters = Annotated[int | None, typer.Option(min=1, help="How many parameters the model has.")]


@app.command()
def plan(
    file: SpecFile,
    parameters: Parameters = None,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Say what a job's noise costs, what other noise would, and what it does to a round's result. Starts nothing."""
    found = _asked(file, federation, profile)
    if as_json:
        common.print_json(found.model_dump(mode="json"))
        return
    _say("exact: no noise, and no bound" if found.terms is None else found.terms.sentence)
    _show_noise(found)
    if found.mean_noise is not None:
        _show_accuracy(found.mean_noise, [parameters] if parameters is not None else LENGTHS)
    elif found.deviation is not None:
        _say(f"noise on each answer: {found.deviation:.3g} times what one record can change of all of them together")
    if found.clipping is not None:
        _show_clipping(found.clipping)
    if found.participation is not None:
        turn = found.participation
        _say(f"participation: {turn.sites} of {turn.eligible} sites in a round; {turn.advice}")


@app.command()
def curve(
    file: SpecFile,
    federation: common.FederationName = None,
    profile: common.ProfileName = None,
    as_json: common.AsJson = False,
) -> None:
    """Plot what the job costs over its rounds, and epsilon over noise. Starts nothing."""
    found = _asked(file, federation, profile)
    if as_json:
        wanted = {"over_rounds", "over_noise"}
        common.print_json(found.model_dump(mode="json", include=wanted))
        return
    if found.over_rounds:
        _say("epsilon after a number of rounds, with this noise:")
        _plot([(str(point.rounds), point.epsilon) for point in found.over_rounds], "rounds", "epsilon")
    _say(f"epsilon of {_span(found.rounds)} by noise multiplier:")
    ranked = sorted(found.over_noise, key=lambda point: point.epsilon)
    bars = [(_noise(point.noise_multiplier), point.epsilon) for point in ranked]
    _plot(bars, "noise", "epsilon")


def _asked(file: SpecFile, federation: str | None, profile: str | None) -> PrivacyPlan:
    with common.connect(profile) as client:
        return client.privacy_plan(read_spec(file), federation=federation)


def _show_noise(found: PrivacyPlan) -> None:
    _say(f"noise for epsilon, {_span(found.rounds)}, model {found.model}, delta {found.delta:g}:")
    table = Table("epsilon", "noise multiplier", "", box=None, header_style="dim")
    for point in found.over_noise:
        own = found.terms is not None and math.isclose(point.epsilon, found.terms.epsilon)
        table.add_row(f"{point.epsilon:.4g}", _noise(point.noise_multiplier), "this job" if own else "")
    common.console.print(table)


def _show_accuracy(mean_noise: float, lengths: Sequence[int]) -> None:
    """Relative noise: the norm of the noise on the mean of a round, in clip norms, by the number of parameters."""
    _say("noise on a round's mean update, in clip norms (what a site can move it by is 1/sites of one):")
    for length in lengths:
        size = mean_noise * math.sqrt(length)
        told = "larger than any update: expect little learning" if size > BARELY else "the update can outweigh it"
        _say(f"  {length:,} parameters: {size:.3g} ({told}); on each one {mean_noise:.3g}")
    _say(
        "  fewer parameters, more sites or a larger epsilon lower it; a smaller clip norm does where updates are small"
    )


def _show_clipping(found: ClippingPlan) -> None:
    _say(
        f"the clip norm moves from {found.start:.4g} towards the {found.quantile:g} quantile of updates' norms; "
        f"counting clipped updates leaves noise of {found.update_noise:.4g} clip norms on the sum of updates"
    )
    chance = math.exp(found.rate * found.share_noise) - 1
    _say(
        f"  the share of updates within it is known to ±{found.share_noise:.2g}, which moves it by {chance:.1%} in "
        "each round by chance; a smaller rate or more sites lower that"
    )


def _plot(bars: Sequence[tuple[str, float | None]], left: str, right: str) -> None:
    most = max((value for _, value in bars if value is not None), default=0.0) or 1.0
    table = Table(left, right, "", box=None, header_style="dim")
    for label, value in bars:
        shown, bar = ("unbounded", "") if value is None else (f"{value:.4g}", figures.bar(value / most))
        table.add_row(label, shown, bar)
    common.console.print(table, markup=False)


def _noise(multiplier: float | None) -> str:
    return "more than can be drawn" if multiplier is None else f"{multiplier:.4g}"


def _span(rounds: int) -> str:
    return "one round" if rounds == 1 else f"{rounds} rounds together"


def _say(text: str) -> None:
    common.console.print(text, markup=False, soft_wrap=True)
