"""Templates to answers: one environment, strict about missing names, with a policy that lets no foreign script in."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fastapi import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from undersong.services.coordinator.dashboard import assets, plots, wording
from undersong.services.coordinator.dashboard.comparison import setting
from undersong.services.coordinator.dashboard.pictures import gauge, timeline
from undersong.services.coordinator.dashboard.session import PATH
from undersong.services.coordinator.dashboard.sweep_plot import shown
from undersong.services.coordinator.dashboard.views import RoundItem
from undersong.services.coordinator.domain.causes import reason_sentence

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_PHASE_ORDER: Final = ("prepare", "collect", "sum")


def _phases(rounds: tuple[RoundItem, ...], now: datetime) -> list[str]:
    present = {span.phase for round_ in rounds for span in round_.spans(now)}
    return [phase for phase in _PHASE_ORDER if phase in present]


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["reason"] = reason_sentence
    made.filters["host"] = lambda url: urlsplit(url).netloc
    for name in ("mark", "engine", "seconds", "ago", "utc", "iso", "size", "number", "measured", "short"):
        made.globals[name] = getattr(wording, name)
    made.globals.update(
        gauge=gauge,
        timeline=timeline,
        setting=setting,
        phases=_phases,
        shown=shown,
        plots=plots,
        root=PATH,
        static=partial(assets.address, PATH),
    )
    return made


_TEMPLATES: Final = _environment()


def page(template: str, status: int, values: Mapping[str, object]) -> Response:
    """Return an HTML answer."""
    body = _TEMPLATES.get_template(template).render(values)
    return Response(body, status, dict(HEADERS), media_type="text/html")
