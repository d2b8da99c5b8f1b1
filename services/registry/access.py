"""Permissions on models: of a person by role, of a site by federation, of a service by name."""

from undersong.services.registry.domain import FederationUnnamed, ModelUnknown, VersionUnknown
from undersong.shared.errors import FieldError, Forbidden, NotFound, no_such
from undersong.shared.identity.verify import Party
from undersong.shared.ids import FederationId
from undersong.shared.web.access import Principal, Role

Asker = Principal | Party
_WRITERS = frozenset({"coordinator", "aggregator"})


def name_of(asker: Asker) -> str:
    """Return how the records name the asker."""
    return asker.subject.uri if isinstance(asker, Party) else asker.user_id


def check_reader(asker: Asker, federation_id: str, hidden: NotFound) -> None:
    """Raise `hidden` unless the asker may read: anyone of the federation, and every service."""
    if isinstance(asker, Principal):
        asker.check(*Role, federation_id=federation_id, hidden=hidden)
    elif asker.subject.kind == "site" and asker.federation_id != federation_id:
        raise hidden


def no_model(model_id: str) -> NotFound:
    """Return the answer about a model that does not exist, or not for the asker."""
    return no_such("model", model_id, ModelUnknown)


def no_version(version_id: str) -> NotFound:
    """Return the answer about a version that does not exist, or not for the asker."""
    return no_such("model version", version_id, VersionUnknown)


def check_writer(asker: Asker, federation_id: str) -> None:
    """Scientists of the federation may write, and the services that publish."""
    if isinstance(asker, Principal):
        asker.check(Role.SCIENTIST, federation_id=federation_id)
    else:
        _check_service(asker)


def check_auditor(asker: Asker, federation_id: str) -> None:
    """Scientists, owners and auditors of the federation may add audits: people, who answer for them by name."""
    if not isinstance(asker, Principal):
        raise Forbidden("Only a scientist, an owner or an auditor may do this.")
    asker.check(Role.SCIENTIST, Role.OWNER, Role.AUDITOR, federation_id=federation_id)


def claimant(asker: Asker, federation_id: str | None) -> FederationId:
    """Return the federation that content is uploaded for: the one named, or the only one in which the asker writes.

    Raises FederationUnnamed where there are several, Forbidden, or what `check_writer` raises.
    """
    if federation_id is not None:
        check_writer(asker, federation_id)
        return FederationId(federation_id)
    if isinstance(asker, Principal):
        asker.check(Role.SCIENTIST)
        written = asker.federations(Role.SCIENTIST) or frozenset()
        if len(written) == 1:
            return FederationId(*written)
    else:
        _check_service(asker)
    raise FederationUnnamed(
        "You write in several federations: name the one that the content is for, as ?federation_id=ID.",
        errors=[FieldError("/query/federation_id", "is needed")],
    )


def _check_service(asker: Party) -> None:
    if asker.subject.kind != "service" or asker.name not in _WRITERS:
        raise Forbidden("Only the coordinator, the aggregator or a scientist may do this.")


def readable(asker: Asker) -> frozenset[str] | None:
    """Return the federations whose models the asker may see; None for all."""
    if isinstance(asker, Principal):
        return asker.federations()
    return None if asker.federation_id is None else frozenset({asker.federation_id})
