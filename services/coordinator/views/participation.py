"""Who takes part in a job, and how far, as told."""

from collections.abc import Mapping
from datetime import datetime

from pydantic import Field

from undersong.services.coordinator.domain.causes import fault_sentence
from undersong.services.coordinator.domain.tasks import TaskState
from undersong.services.coordinator.repository.tasks import Participation
from undersong.services.coordinator.views import View


class ParticipationView(View):
    """One site's part in a job, counted in tasks over all rounds and attempts."""

    site_id: str
    site_name: str | None
    asked: int = Field(description="Tasks that the site was given.")
    done: int
    rejected: int = Field(description="Tasks that the site, or the aggregator, refused.")
    expired: int = Field(description="Tasks without an answer when their round ended.")
    dead: int = Field(description="Tasks that were given up after too many attempts.")
    trained: int = Field(default=0, description="Changes that the site holds ready, for a round to collect.")
    outstanding: int = Field(description="Tasks that are open or under way.")
    receipts: int = Field(description="Updates and answers for which the aggregator signed a receipt.")
    answered_at: datetime | None
    faults: dict[str, int] = Field(
        description="Codes of faults against the engine's protocol, each with the number of rounds; "
        "`shares-disputed` is what other sites say."
    )
    code: str | None = Field(description="Why the site's newest task that did not succeed did not.")
    message: str | None = Field(description="The same as a sentence.")
    round_id: str | None = Field(description="The round of that task.")


def participation_view(part: Participation, site_name: str | None, faults: Mapping[str, int]) -> ParticipationView:
    """As told."""
    told = part.told
    count = {state: part.tasks.get(state, 0) for state in TaskState}
    return ParticipationView(
        site_id=part.site_id,
        site_name=site_name,
        asked=sum(count.values()),
        done=count[TaskState.DONE],
        rejected=count[TaskState.REJECTED],
        expired=count[TaskState.EXPIRED],
        dead=count[TaskState.DEAD],
        trained=count[TaskState.TRAINED],
        outstanding=count[TaskState.OPEN] + count[TaskState.LEASED],
        receipts=part.receipts,
        answered_at=part.answered_at,
        faults=dict(faults),
        code=told.code if told else None,
        message=fault_sentence(told.code or "", told.message) if told else None,
        round_id=told.round_id if told else None,
    )
