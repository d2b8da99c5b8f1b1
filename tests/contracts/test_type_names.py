"""No type name has two meanings where both types can be imported into one module."""

import ast
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[2]
SERVICES: Final = ("agent", "aggregator", "coordinator", "inference", "keys", "registry")
COMMON: Final = ("shared/", "recipes/")
EXCEPTIONS: Final = {
    "Base": "SQLAlchemy's declarative base of a schema: of the keys service, its helper and its custodians",
    "DealerAtFault": "one refusal with one code: raised by the engine, reported to the site by the aggregator",
    "DigestMismatch": "one refusal with one code: of a stored blob and of a request's body",
    "Model": "public names: the tensors of a model (undersong.recipe), the registry's model (undersong.client)",
    "Page": "one page of a list: as the services answer it and as the client returns it",
    "ProofInvalid": "one refusal with one code: of a zero-knowledge proof and of the proof of a key",
    "RoundVoided": "one refusal with one code: of the witness and of the helper",
}
"""Names of several types that mean one thing, or that others import already."""


def public_classes() -> list[tuple[str, str]]:
    """Return (name, file) of each public class at a module's top level."""
    folders = ("shared", "services", "undersong", "recipes")
    command = ["git", "ls-files", "--", *(f"{folder}/*.py" for folder in folders)]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [
        (node.name, path)
        for path in listed.splitlines()
        for node in ast.parse((ROOT / path).read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def test_no_type_name_has_two_meanings() -> None:
    """A service knows `shared` and `recipes` and no other service; the command line knows these too.

    The sync client and the answers' types of the client are views of what the services define: same name, same meaning.
    """
    importable = [(*COMMON, f"services/{service}/") for service in SERVICES] + [(*COMMON, "undersong/")]
    classes = public_classes()
    doubled = defaultdict[str, set[str]](set)
    for folders in importable:
        files = defaultdict[str, set[str]](set)
        for name, path in classes:
            if path.startswith(folders):
                files[name].add(path)
        for name, paths in files.items():
            if len(paths) > 1:
                doubled[name] |= paths
    assert {name: sorted(paths) for name, paths in doubled.items() if name not in EXCEPTIONS} == {}
    unused = EXCEPTIONS.keys() - doubled.keys()
    assert not unused, f"no longer needed: {unused}"
