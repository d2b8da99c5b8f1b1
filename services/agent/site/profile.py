"""What a site shows of itself: what it has, cut down to what its policy allows. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from undersong.services.agent.domain.rules import EVERYTHING, PROTOCOLS, SITE_UNREADABLE, Policy, SiteFacts
from undersong.services.agent.policy.file import PolicyError
from undersong.services.agent.runner.protocol import Description
from undersong.services.agent.settings import ConfigError
from undersong.shared.ids import Digest, SiteId
from undersong.shared.wire.profiles import DatasetSchema, Hardware, ProfileFault, RecipeSpec, SiteProfile

MOST_FAULTS = 50
NAME_CHARS = 200


def agent_version() -> str:
    """Return the installed version."""
    try:
        return version("undersong")
    except PackageNotFoundError:
        return "0+source"


def facts_of(description: Description, site_id: str, federation_id: str) -> SiteFacts:
    """Return what the policy is judged against."""
    specs = [RecipeSpec.model_validate(spec) for spec in description.recipes]
    return SiteFacts(
        site_id=SiteId(site_id),
        federation_id=federation_id,
        recipes={spec.name: Digest(spec.digest) for spec in specs},
        own_recipes=frozenset(description.own_recipes),
        growing=frozenset(spec.name for spec in specs if spec.grows is not None),
        datasets={schema["name"]: DatasetSchema.model_validate(schema) for schema in description.datasets},
    )


def profile_of(description: Description, policy: Policy, runner: str) -> SiteProfile:
    """Return the public profile: only allowed recipes, data sets and columns are named."""
    specs = [RecipeSpec.model_validate(spec) for spec in description.recipes]
    schemas = [DatasetSchema.model_validate(schema) for schema in description.datasets]
    own = frozenset(description.own_recipes)
    return SiteProfile(
        agent_version=agent_version(),
        protocol=max(PROTOCOLS),
        recipes=tuple(
            spec
            for spec in specs
            if any(rule.allows(spec.name, spec.digest, own=spec.name in own) for rule in policy.recipes)
        ),
        datasets=tuple(
            _allowed(schema, policy.datasets[schema.name]) for schema in schemas if schema.name in policy.datasets
        ),
        hardware=Hardware.model_validate(description.hardware),
        runner=runner,
        faults=tuple(_faults(description, policy)),
    )


def unreadable_profile(error: ConfigError, runner: str) -> SiteProfile:
    """Return the profile of a site that a person must correct before its agent can start."""
    code = error.code if isinstance(error, PolicyError) else SITE_UNREADABLE
    return SiteProfile(
        agent_version=agent_version(),
        protocol=max(PROTOCOLS),
        hardware=Hardware(cpus=os.cpu_count() or 1, memory_bytes=0),
        runner=runner,
        faults=(ProfileFault(code=code),),
    )


def _faults(description: Description, policy: Policy) -> Iterator[ProfileFault]:
    """Yield what cannot be read here, without the reasons, which can quote data; of data sets those that the policy
    names.
    """
    named = [name for name in description.unread if name in policy.datasets]
    if policy.datasets and not named and not description.declared:
        yield ProfileFault(code="datasets-unreadable")
    for name in named[:MOST_FAULTS]:
        yield ProfileFault(code="dataset-unreadable", dataset=name[:NAME_CHARS])


def _allowed(schema: DatasetSchema, columns: frozenset[str]) -> DatasetSchema:
    if EVERYTHING in columns:
        return schema
    label = schema.label if schema.label in columns else None
    kept = tuple(column for column in schema.columns if column.name in columns)
    return schema.model_copy(update={"columns": kept, "label": label})
