"""What the aggregator refuses, and why."""

from undersong.shared.errors import Conflict, Forbidden, Gone, Invalid, NotFound


class RoundUnknown(NotFound):
    """There is no such round."""


class RoundClosed(Gone):
    """The round takes no more updates."""


class RoundDiffers(Conflict):
    """The round was opened with another manifest."""


class RoundOver(Conflict):
    """The round has ended and cannot be changed."""


class NotInCohort(Forbidden):
    """The site was not asked to take part in this round."""


class UpdateDiffers(Conflict):
    """The site has sent another update for this round before."""


class UpdateRejected(Invalid):
    """The update was accepted but could not be used, and does not count."""


class SampleCountMissing(Invalid):
    """The update carries no committed sample count."""


class SampleCountUnproved(Invalid):
    """The committed sample count is not proved to lie within the job's limits."""


class SampleCountChanged(Conflict):
    """The site has committed to another sample count in this job before."""


class WrongLength(Invalid):
    """The update's length or layout is not the one that this round's updates have."""


class FormUndecided(Invalid):
    """As many sites sent updates of one length as of another, and nothing says which of them is right."""


class BodyLost(Conflict):
    """The stored update is no longer there, or no longer what its receipt says: send the same bytes again."""


class StepUnknown(NotFound):
    """The round's engine has no such step."""


class StepDiffers(Conflict):
    """The site has sent another message in this step before."""


class StepNotOpen(Conflict):
    """The round has not come to this step yet."""


class StepClosed(Gone):
    """The step takes no more messages."""


class SiteFellOut(Gone):
    """The round went on without this site."""


class DealerAtFault(Gone):
    """The round went on without this site, because other sites could not use the shares that it dealt."""


class HelperRefused(Conflict):
    """The helper does not take part in this round."""


class ManifestUntrusted(Forbidden):
    """The manifest is not signed by the coordinator."""
