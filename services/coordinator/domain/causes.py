"""Why rounds fail: the sites' faults grouped for people, and which of them every further attempt would meet again."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from undersong.services.coordinator.domain.tasks import SiteTask, TaskState
from undersong.shared.ids import SiteId
from undersong.shared.wire.manifest import RoundKind

MOST_CAUSES: Final = 8
MESSAGE_CHARS: Final = 400

_REPEATING_FAMILIES: Final = ("policy-", "manifest-", "recipe-", "data-", "dataset-", "schema-")
_REPEATING: Final = frozenset(
    {
        "bad-result",
        "budget-exceeded",
        "consent-denied",
        "dealer-at-fault",
        "disk-limit",
        "ledger-damaged",
        "model-mismatch",
        "model-too-large",
        "no-examples",
        "not-contained",
        "privacy-mismatch",
        "protocol-unknown",
        "sample-count-changed",
        "sample-limits-changed",
        "statistics-unreadable",
    }
)
_PASSING: Final = frozenset({"policy-hours", "policy-signature", "manifest-round", "consent-waiting"})
"""Codes of a repeating family that time alone may resolve."""
_OWNERS_MAY_LIFT: Final = frozenset({"budget-exceeded", "consent-denied"})
"""Codes of which the remedy is to ask the sites' owners, for this job."""

_OPINIONS: Final = 2
"""How many sites must report a recipe's error before a round without data (`initialise`) is held against the job."""

_FAULTS: Final = {
    "agent-error": "the agent met an error of its own; its log says more",
    "bad-result": "the recipe's result is not usable",
    "body-lost": "the stored update was damaged, and the site was asked for it again",
    "dealer-at-fault": "other sites could not use the shares that the site dealt",
    "consent-denied": "the site's owner does not consent to this job",
    "consent-waiting": "the job waits for the consent of the site's owner",
    "budget-exceeded": "the round would cost more than the site's privacy budget for its data allows",
    "child-died": "the training process ended unexpectedly",
    "disk-full": "the site's disk is full",
    "disk-limit": "the recipe wrote more files than the site's policy allows",
    "interrupted": "the agent was stopped",
    "ledger-damaged": "the site's privacy ledger cannot be relied on, so it takes no rounds with noise",
    "lease-expired": "the agent stopped sending heartbeats",
    "no-examples": "the site has no training rows for this job",
    "out-of-memory": "training needs more memory than the site allows",
    "policy-unreadable": "the site's policy cannot be read",
    "policy-signature": "the site's policy is not signed by its owners",
    "site-unreadable": "the site's agent cannot read what the site has",
    "policy-hours": "the site's policy allows no work at this hour",
    "privacy-mismatch": "the rounds cost more epsilon than they claim, as the site computes it",
    "recipe-error": "the recipe failed; the site's log says more",
    "recipe-unknown": "the recipe is not installed at the site",
    "recipe-digest": "the recipe's code at the site differs from the job's",
    "round-ended": "no answer before the round ended",
    "schema-mismatch": "the site's data set differs from what all sites agreed on for the job",
    "site-lost": "the site is away",
    "task-time": "training took longer than the round or the site's policy allows",
}
_REASONS: Final = {
    "completed": "All rounds are done.",
    "early-stop": "The metric stopped improving, as the job asked.",
    "diverged": "Training diverged: a round's loss was more than 1000 times that of the first round, or more than "
    "can be told. The job keeps the "
    "version from which that round began. Lower the learning rate, or limit steps (clip_gradient) or updates "
    "(update.clip_norm).",
    "dealer-at-fault": "A site dealt shares that do not open its masks, so the sum could not be opened.",
    "noise-rows-spent": "All rows of the job's correlated noise were given, or may have been: submit it as a new job.",
    "noise-row-taken": "The aggregator has given the round's row of the job's correlated noise to another sum.",
    "buffer": "Too few sites had a change ready within the deadline.",
    "quorum": "Fewer sites than the minimum cohort gave a usable update in time.",
    "deadline": "The round's deadline passed without a result.",
    "overdue": "The round's deadline passed and the aggregator gave no result.",
    "cancelled": "A person cancelled it.",
    "job-cancelled": "A person cancelled the job.",
    "too-few-sites": "Fewer sites than the minimum cohort are online and can take part.",
    "claim-broken": "A privacy audit of a version found a lower bound on epsilon above what the job claims.",
    "too-few-able": "Too few sites are left that can do this step: the others failed in a way that repeats.",
}

_REMEDIES: Final = (
    (
        ("sample-count-changed", "sample-limits-changed"),
        (
            "A site cannot go on in a job for which it committed to another number of samples, or whose commitment it "
            "lost with its state. Put back its data or its state folder as they were and resume the job; else cancel "
            "it and submit it again, from its last version (model.version_id), with or without that site."
        ),
    ),
    (("policy-unreadable",), "The site's owner corrects policy.yaml (undersong doctor --agent); then resume the job."),
    (
        ("consent-denied",),
        "Ask the sites' owners, who may approve it still; then resume the job, or submit another without these sites.",
    ),
    (("consent-waiting",), "The sites' owners approve it (undersong consent); the job goes on then by itself."),
    (("policy-signature",), "The site's owners read and sign policy.yaml (undersong policy sign)."),
    (
        ("budget-exceeded",),
        (
            "Submit it with more noise or fewer rounds (undersong privacy plan), or ask the owners, who see what "
            "is left with undersong ledger show, and who alone can raise a budget; then resume the job."
        ),
    ),
    (
        ("ledger-damaged",),
        "The site's owner finds out what happened (undersong ledger verify, then adopt); then resume the job.",
    ),
    (
        ("diverged",),
        (
            "Submit it again from its last version (model.version_id) with smaller steps. A single site can claim such "
            "a loss, and from the mean nothing tells: if that is what happened, resume the job."
        ),
    ),
    (("policy-hours",), "Resume the job within the hours that the sites' policies allow."),
    (("policy-",), "The sites' owners may allow it in policy.yaml; then resume the job, or submit another."),
    (
        ("schema-", "dataset-", "data-", "bad-dataset"),
        "Correct the data or datasets.yaml at the site; then resume the job.",
    ),
    (("recipe-unknown", "recipe-digest"), "Install the same release at all sites; then resume the job."),
    (
        ("disk-limit", "out-of-memory", "model-too-large", "task-time"),
        "Raise the limit under resources in the site's policy.yaml; then resume the job.",
    ),
    (
        ("deadline", "overdue", "buffer"),
        "Look for what is away or slow (undersong doctor); then resume the job.",
    ),
    (("disk-full",), "Free space on the site's disk; then resume the job."),
    (
        ("claim-broken",),
        (
            "Look at the version's audits (undersong model show MODEL) and find out why the noise is too small. Resume "
            "the job only when the audit was in error: at its confidence of 95 %, one in twenty can be."
        ),
    ),
    (
        ("too-few-sites", "site-lost", "lease-expired", "interrupted"),
        "Start the sites' agents (undersong site list shows which are away); then resume the job.",
    ),
)
"""What helps a paused job, by the codes, or beginnings of codes that end in "-", of its causes and its reason."""

_RESUME: Final = "Resume the job once the cause is removed."


@dataclass(frozen=True, slots=True)
class Cause:
    """One distinct fault of a failed round, and at how many sites it happened."""

    code: str
    message: str
    sites: int

    @property
    def sentence(self) -> str:
        """What the sites said, or what the code means where a site's policy lets out only the code."""
        return fault_sentence(self.code, self.message)


def fault_sentence(code: str, message: str | None) -> str:
    """Say what a site said, in one line, or what the code means where the site said nothing."""
    return _line(message) or _FAULTS.get(code, "no detail was given")


def causes_of(tasks: Iterable[SiteTask]) -> tuple[Cause, ...]:
    """Group the faults of a round's tasks, the most frequent first; at most `MOST_CAUSES` of them."""
    found = Counter((task.code, _line(task.message)) for task in tasks if _failed(task))
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Cause(code or "unknown", message, sites) for (code, message), sites in ranked[:MOST_CAUSES])


def unable(tasks: Iterable[SiteTask]) -> dict[SiteId, str]:
    """Return the sites that would fail in the same way in another attempt at the same step, each with its code."""
    rejected = (task for task in tasks if task.state is TaskState.REJECTED and repeats(task.code))
    return {task.site_id: task.code or "" for task in rejected}


def repeats(code: str | None) -> bool:
    """Return whether a site that failed with this code fails again with the same data, parameters and policy."""
    if code is None or code in _PASSING:
        return False
    return code in _REPEATING or code.startswith(_REPEATING_FAMILIES)


def liftable(code: str) -> bool:
    """Return whether a site that failed with this code may go on in the same job, once its owner was asked."""
    return code in _OWNERS_MAY_LIFT


def owed_to_job(kind: RoundKind, unable: Mapping[SiteId, str]) -> bool:
    """Return whether the job itself is at fault: a round that reads no data met a recipe's error at several sites."""
    return kind is RoundKind.INITIALISE and list(unable.values()).count("recipe-error") >= _OPINIONS


def reason_sentence(code: str) -> str:
    """Say a reason code as a sentence; other text stays as it is."""
    name, _, step = code.partition(":")
    if name == "quorum" and step:
        return f"Fewer sites than the minimum cohort came to the step {step}, which has a part of the round's time."
    return _REASONS.get(code, code)


def remedy(reason: str, causes: Iterable[Cause]) -> str:
    """Say what to do for a paused job: a sentence for each kind of cause, the most frequent first."""
    codes = [*(cause.code for cause in causes), reason.partition(":")[0]]
    found = dict.fromkeys(filter(None, map(_remedy_for, codes)))
    return " ".join(found) or _RESUME


def _remedy_for(code: str) -> str | None:
    for names, text in _REMEDIES:
        if any(code == name or (name.endswith("-") and code.startswith(name)) for name in names):
            return text
    return None


def _line(message: str | None) -> str:
    """Return a site's message as one line of visible characters, to be shown among lines of ours."""
    visible = "".join(char if char.isprintable() else " " for char in message or "")
    return " ".join(visible.split())[:MESSAGE_CHARS]


def _failed(task: SiteTask) -> bool:
    return task.state in (TaskState.REJECTED, TaskState.DEAD, TaskState.EXPIRED)
