"""Look every locked package up among the known vulnerabilities: `make audit`.

Status 1 when there are some. Where the advisories cannot be reached it says that nothing was audited: that is no pass.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCKS = Path(__file__).resolve().parent / "locks"
# Of PyTorch's two locks the one whose version public advisories know.
NAMES = ("coordinator", "aggregator", "keys", "registry", "agent", "inference", "torch-cuda", "build")


def looked_up() -> list[dict[str, Any]]:
    """Return what pip-audit tells of each package, without installing any."""
    command = ["pip-audit", "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command += [word for name in NAMES for word in ("--requirement", str(LOCKS / f"{name}.txt"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own arguments)
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        sys.exit(f"audit: pip-audit did not answer: {done.stderr.strip()[-500:]}")


def main() -> int:
    """Print and judge."""
    found = {(item["name"], item.get("version", "")): item for item in looked_up()}
    known = {key: item for key, item in found.items() if "skip_reason" not in item}
    bad = {key: item["vulns"] for key, item in known.items() if item["vulns"]}
    for (name, version), vulnerabilities in sorted(bad.items()):
        for each in vulnerabilities:
            fixed = ", ".join(each["fix_versions"]) or "none yet"
            sys.stdout.write(f"{name} {version}: {each['id']}, fixed in {fixed}\n")
    left = len(found) - len(known)
    if not known:
        sys.stdout.write(f"audit: the advisories cannot be reached from here; nothing was audited ({left} packages)\n")
    else:
        sys.stdout.write(
            f"audit: {len(known)} packages looked up, {len(bad)} with known vulnerabilities, {left} unknown\n"
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
