"""What the services answer, as types.

Every type keeps fields that it does not know (a newer service may send more), so `extra` fields are readable too.
"""

from undersong.client.types.base import Answer, Page
from undersong.client.types.comparisons import ComparedJob, Curve, JobComparison, SettingDifference
from undersong.client.types.jobs import (
    ENDED_ROUND_PHASES,
    LAST_EVENTS,
    PROGRESS_EVENTS,
    TERMINAL_JOB_STATES,
    Absence,
    Cause,
    Event,
    Exclusion,
    Job,
    Participation,
    Round,
    StatisticsResults,
    Validation,
)
from undersong.client.types.models import AliasChange, Audit, Model, ModelVersion, Version
from undersong.client.types.people import AuditEntry, DeviceAnswer, DeviceSignOn, Me, PendingAction, SignOn, Token, User
from undersong.client.types.privacy import (
    ClippingPlan,
    JobPrivacy,
    JobSpent,
    NoisePoint,
    ParticipationPlan,
    PrivacyPlan,
    RoundsPoint,
    UnitSpent,
)
from undersong.client.types.services import Authority, Health
from undersong.client.types.sites import (
    ColumnComparison,
    Comparison,
    EnrolmentToken,
    Federation,
    Invitation,
    Site,
    SiteCertificate,
    SiteInvitation,
)
from undersong.client.types.submissions import Schedule, ScheduledTime, Sweep, SweepItem, SweepJob, SweepPlan
from undersong.client.types.webhooks import Webhook, WebhookDelivery

__all__ = [
    "ENDED_ROUND_PHASES",
    "LAST_EVENTS",
    "PROGRESS_EVENTS",
    "TERMINAL_JOB_STATES",
    "Absence",
    "AliasChange",
    "Answer",
    "Audit",
    "AuditEntry",
    "Authority",
    "Cause",
    "ClippingPlan",
    "ColumnComparison",
    "ComparedJob",
    "Comparison",
    "Curve",
    "DeviceAnswer",
    "DeviceSignOn",
    "EnrolmentToken",
    "Event",
    "Exclusion",
    "Federation",
    "Health",
    "Invitation",
    "Job",
    "JobComparison",
    "JobPrivacy",
    "JobSpent",
    "Me",
    "Model",
    "ModelVersion",
    "NoisePoint",
    "Page",
    "Participation",
    "ParticipationPlan",
    "PendingAction",
    "PrivacyPlan",
    "Round",
    "RoundsPoint",
    "Schedule",
    "ScheduledTime",
    "SettingDifference",
    "SignOn",
    "Site",
    "SiteCertificate",
    "SiteInvitation",
    "StatisticsResults",
    "Sweep",
    "SweepItem",
    "SweepJob",
    "SweepPlan",
    "Token",
    "UnitSpent",
    "User",
    "Validation",
    "Version",
    "Webhook",
    "WebhookDelivery",
]
