"""Write docs/reference/<page>.md and the schemas; with --check, fail when a file differs."""

import argparse
import sys
from pathlib import Path

from undersong.reference.pages import files


def main() -> None:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    drifted = []
    for name, fresh in files():
        path = arguments.folder / name
        if not arguments.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(fresh, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != fresh:
            drifted.append(path.name)
    if drifted:
        sys.stderr.write(f"Reference pages differ from the code: {', '.join(drifted)}; run `make docs`\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
