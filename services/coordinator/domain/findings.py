"""What is wrong with a job document: every error at once, each with the path of the field that is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from undersong.shared.documents import document_faults, pointer
from undersong.shared.errors import FieldError, Invalid
from undersong.shared.names import hint

KINDS: Final = ("train", "evaluate", "statistics")
MAX_ERRORS: Final = 100


class JobInvalid(Invalid):
    """The job cannot run as it is written."""


@dataclass
class Findings:
    """What was found wrong, and what only deserves a word."""

    errors: list[FieldError] = field(default_factory=list)
    warnings: list[FieldError] = field(default_factory=list)

    def error(self, path: str, message: str) -> None:
        """Add something that the job cannot run with."""
        self.errors.append(FieldError(path, message))

    def warn(self, path: str, message: str) -> None:
        """Add something that its author should know."""
        self.warnings.append(FieldError(path, message))

    def refusal(self) -> JobInvalid:
        """Return all errors as one refusal."""
        count = len(self.errors)
        return JobInvalid(
            f"The job has {count} error{'s' if count != 1 else ''}.",
            errors=self.errors[:MAX_ERRORS],
            warnings=[{"path": warning.path, "message": warning.message} for warning in self.warnings],
        )


def kind_of(document: Mapping[str, Any]) -> str:
    """Return the kind of a job document; raises `JobInvalid` for an unknown one."""
    kind = document.get("kind", KINDS[0])
    if isinstance(kind, str) and kind not in KINDS:
        findings = Findings()
        findings.error("/kind", f"there is no kind of job {kind!r}{hint(kind, KINDS)}")
        raise findings.refusal()
    return str(kind)


def parse_fields(document: Mapping[str, Any], form: type[BaseModel], findings: Findings) -> dict[str, Any]:
    """Return the fields that are well formed; the others' errors go to the findings."""
    parsed: dict[str, Any] = {}
    for name, info in form.model_fields.items():
        if name not in document:
            if info.is_required():
                findings.error(f"/{name}", "this field is required")
            else:
                parsed[name] = info.get_default(call_default_factory=True)
            continue
        annotation = _annotation(info)
        try:
            parsed[name] = TypeAdapter[Any](annotation).validate_python(document[name])
        except ValidationError as error:
            findings.errors += document_faults(error, annotation, [name])
    for name in document:
        if name not in form.model_fields:
            findings.error(pointer([name]), f"there is no such field{hint(name, form.model_fields)}")
    return parsed


def _annotation(info: FieldInfo) -> Any:
    """Return the field's type with its constraints."""
    annotation: Any = info.annotation
    for constraint in info.metadata:
        annotation = Annotated[annotation, constraint]
    return annotation
