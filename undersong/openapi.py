"""Writes what each service offers to docs/openapi/<service>.json; with --check, fails when a file differs."""

import argparse
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

from undersong.local.layout import SERVICES


def document(service: str) -> str:
    """The service's OpenAPI document as sorted, indented JSON."""
    wiring = importlib.import_module(f"services.{service}.wiring")
    settings = importlib.import_module(f"services.{service}.settings")
    app = wiring.build_app(getattr(settings, f"{service.capitalize()}Settings")())
    return json.dumps(app.openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    drifted = [service for service in SERVICES if not _handle(service, arguments.folder, check=arguments.check)]
    if drifted:
        sys.stderr.write(f"OpenAPI files differ from the code: {', '.join(drifted)}; run `make openapi`\n")
        sys.exit(1)


def _handle(service: str, folder: Path, *, check: bool) -> bool:
    path = folder / f"{service}.json"
    with tempfile.TemporaryDirectory() as scratch:
        os.environ[f"{service.upper()}_DATA_DIR"] = scratch
        fresh = document(service)
    if check:
        return path.exists() and path.read_text() == fresh
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(fresh)
    sys.stdout.write(f"{path}\n")
    return True


if __name__ == "__main__":
    main()
