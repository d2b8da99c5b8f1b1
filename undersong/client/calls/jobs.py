"""Requests about jobs and their rounds."""

from collections.abc import Iterable, Mapping
from typing import Any

from undersong.client import types as t
from undersong.client.calls.call import Call, get, post, quoted


def validate_job(spec: Mapping[str, Any]) -> Call[t.Validation]:
    """Check a job without starting it; every fault at once."""
    return post("coordinator", "/jobs/validations", t.Validation, spec)


def privacy_plan(spec: Mapping[str, Any]) -> Call[t.PrivacyPlan]:
    """Say what a job's noise costs, without starting it; every fault at once."""
    return post("coordinator", "/jobs/privacy-plan", t.PrivacyPlan, spec)


def submit_job(spec: Mapping[str, Any]) -> Call[t.Job]:
    """Start a job."""
    return post("coordinator", "/jobs", t.Job, spec)


def clone_job(job_id: str, changes: Mapping[str, Any]) -> Call[t.Job]:
    """Start a job like another one, with changes."""
    return post("coordinator", f"/jobs/{quoted(job_id)}/clones", t.Job, {"changes": dict(changes)})


def jobs(federation_id: str | None = None, after: str | None = None, **chosen: str | None) -> Call[t.Page[t.Job]]:
    """Jobs, newest first; `chosen` are the service's filters and `sort`."""
    return get("coordinator", "/jobs", t.Page[t.Job], federation_id=federation_id, after=after, **chosen)


def job(job_id: str) -> Call[t.Job]:
    """Return one job."""
    return get("coordinator", f"/jobs/{quoted(job_id)}", t.Job)


def compare_jobs(job_ids: Iterable[str]) -> Call[t.JobComparison]:
    """Return jobs side by side."""
    return get("coordinator", "/job-comparison", t.JobComparison, jobs=",".join(job_ids))


def results(job_id: str) -> Call[t.StatisticsResults]:
    """Return what a statistics job has found."""
    return get("coordinator", f"/jobs/{quoted(job_id)}/results", t.StatisticsResults)


def job_rounds(job_id: str, after: str | None = None) -> Call[t.Page[t.Round]]:
    """Return the rounds of a job, oldest first."""
    return get("coordinator", f"/jobs/{quoted(job_id)}/rounds", t.Page[t.Round], after=after)


def participation(job_id: str) -> Call[t.Page[t.Participation]]:
    """Return each site's part in a job."""
    return get("coordinator", f"/jobs/{quoted(job_id)}/participation", t.Page[t.Participation])


def job_action(job_id: str, action: str) -> Call[t.Job]:
    """Pause, resume or cancel a job."""
    return post("coordinator", f"/jobs/{quoted(job_id)}/{quoted(action)}", t.Job)


def round_(round_id: str) -> Call[t.Round]:
    """Return one round with its tasks."""
    return get("coordinator", f"/rounds/{quoted(round_id)}", t.Round)


def spent(job_id: str) -> Call[t.JobSpent]:
    """Return what a job cost in privacy so far."""
    return get("coordinator", f"/jobs/{quoted(job_id)}/privacy", t.JobSpent)
