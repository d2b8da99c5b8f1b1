"""What goes through Redis: names of things, never their content."""

from collections.abc import Mapping

from undersong.shared.database.fresh import EmittedEvent

Event = EmittedEvent


def to_fields(event: Event) -> dict[str, str]:
    """Return an event as the fields of a stream entry."""
    fields = {"id": event.id, "topic": event.topic, "type": event.type, "subject": event.subject}
    return fields if event.trace is None else {**fields, "trace": event.trace}


def from_fields(fields: Mapping[str, str]) -> Event:
    """Read a stream entry; ValueError when fields are missing."""
    try:
        return Event(fields["id"], fields["topic"], fields["type"], fields["subject"], fields.get("trace"))
    except KeyError as error:
        raise ValueError(f"entry without {error}") from error
