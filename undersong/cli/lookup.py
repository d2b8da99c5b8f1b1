"""Things by their names: wherever a command takes an id, it takes the name as well.

Ids are made by the services and have a prefix of their own; a name that several things have is refused with their ids.
"""

from collections.abc import Sequence

from undersong.cli import common
from undersong.client import Client
from undersong.client.naming import one_named, one_version, parts_of
from undersong.client.types import Job, Model, Token, User, Version
from undersong.errors import UndersongError
from undersong.shared.names import hint


def find_job(client: Client, name: str) -> Job:
    """Return the job with this id or name; of several with the name, the one that has not ended."""
    if name.startswith("job_"):
        return client.job(name)
    jobs = client.jobs()
    named = [job for job in jobs if job.name == name]
    open_ = [job for job in named if not job.finished]
    chosen = open_ if len(named) > 1 and len(open_) == 1 else named
    if len(chosen) == 1:
        return client.job(chosen[0].id)  # a list of jobs tells less: not what they wait for
    if not named:
        near = hint(name, (job.name for job in jobs))
        raise UndersongError(f"no job is called {name!r}{near}", remedy="undersong job list")
    listed = "; ".join(f"{job.id} {job.state}, made {common.text(job.created_at)}" for job in named[:5])
    raise UndersongError(f"{len(named)} jobs are called {name!r}: {listed}", remedy="give the id of one")


def find_user(client: Client, name: str) -> User:
    """Return the user with this id or name."""
    return one_named(client.users(), name, "user", "undersong user list")


def find_token(tokens: Sequence[Token], name: str) -> Token:
    """Return the token with this id, or the only one in force with this name."""
    in_force = [token for token in tokens if token.id == name or token.revoked_at is None]
    return one_named(in_force, name, "token in force", "undersong token list; for another user's, add --user NAME")


def find_version(client: Client, name: str, version: str = "") -> tuple[Model, Version]:
    """Return a model's version: "ver_…" alone, or the model by name or id with a number, an alias or a version's id.

    The version is given as `version`, or behind a colon or @ ("heart:3", "heart@champion"); without it, the newest.
    """
    if name.startswith("ver_") and not version:
        found = client.version(name)
        return client.model(found.model_id), found
    model_name, behind = parts_of(name)
    model = common.find_model(client, model_name)
    return model, one_version(model, client.versions(model.id), version or behind)


def find_pulled(client: Client, name: str, version: str = "") -> tuple[Model, Version]:
    """Return the version that `find_version` finds, or a job's last one: by its id, or its name where no model has
    that.

    A version is published only when its round is over, so a job that paused or failed has its last good one.
    """
    if not name.startswith("job_") and (name.startswith("ver_") or not _only_a_job(client, name)):
        return find_version(client, name, version)
    job = find_job(client, name)
    if version:
        raise UndersongError("a job has one last version", remedy=f"undersong model show {job.model_id or 'MODEL'}")
    if job.version_id is None:
        raise UndersongError(f"job {job.id} has made no model version yet", remedy=f"undersong job show {job.id}")
    return find_version(client, job.version_id)


def _only_a_job(client: Client, name: str) -> bool:
    """Return whether a job is called so, and no model."""
    model_name = name.partition("@" if "@" in name else ":")[0]
    known = any(model_name in (model.id, model.name) for model in client.models())
    return not known and any(job.name == name for job in client.jobs())


def find_subject(client: Client, name: str) -> str:
    """Return the id of a round or a model version; a version may be named as `find_version` does."""
    return name if name.startswith(("rnd_", "ver_")) else find_version(client, name)[1].id
