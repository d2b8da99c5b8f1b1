"""Writes what each service offers to docs/openapi/<service>.json; with --check, fails when a file differs."""

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Final

from fastapi import FastAPI

from undersong.local.layout import HELPER, SERVICES, package_of, settings_of

DESCRIBED: Final = (*SERVICES, HELPER, "inference")


def document(service: str) -> str:
    """Return the service's OpenAPI document as sorted, indented JSON; nothing is connected to, nothing is kept."""
    with tempfile.TemporaryDirectory() as scratch:
        described = application(service, Path(scratch)).openapi()
    return json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def application(service: str, scratch: Path) -> FastAPI:
    """Return the service's application, which is connected to nothing; `scratch` is an empty folder."""
    wiring = importlib.import_module(f"{package_of(service)}.wiring")
    made: FastAPI = wiring.build_app(settings_of(service)(data_dir=scratch))
    return made


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    drifted = [service for service in DESCRIBED if not _handle(service, arguments.folder, check=arguments.check)]
    if drifted:
        sys.stderr.write(f"OpenAPI files differ from the code: {', '.join(drifted)}; run `make openapi`\n")
        sys.exit(1)


def _handle(service: str, folder: Path, *, check: bool) -> bool:
    path = folder / f"{service}.json"
    fresh = document(service)
    if check:
        return path.exists() and path.read_text() == fresh
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(fresh)
    sys.stdout.write(f"{path}\n")
    return True


if __name__ == "__main__":
    main()
