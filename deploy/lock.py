"""Write the lock files from which images are installed: every package, by version and SHA-256.

`make lock` runs it after a change of pyproject.toml or constraints.txt; it needs a package index, its check does not.
Versions are those of constraints.txt. PyTorch has locks of its own, because its builds differ by accelerator:
`torch-cuda` is the common one with its GPU libraries; `torch-cpu` is the wheel whose file is named on the command line.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "deploy" / "locks"
SERVICES = ("coordinator", "aggregator", "keys", "registry", "agent", "inference")
ACCELERATED = re.compile(r"(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)")
NOTE = "# Written by `make lock`; installed with --require-hashes and --no-deps.\n"


def blocks(text: str) -> dict[str, str]:
    """Package name → its lines."""
    found = re.findall(r"^[A-Za-z0-9][^\n]*(?:\n {4}[^\n]+)*\n", text, re.MULTILINE)
    return {re.split(r"[ =;\[]", block, maxsplit=1)[0].lower(): block for block in found}


def compiled(source: Path, *options: str) -> dict[str, str]:
    """Return what the resolver makes of a project or a list of requirements."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        kept = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("torch==")]
        constraints.write_text("\n".join(kept))
        command = ["uv", "pip", "compile", "--quiet", str(source), "--constraint", str(constraints)]
        command += ["--generate-hashes", "--python-version", "3.11", "--no-header", "--no-annotate", *options]
        done = subprocess.run(  # noqa: S603  (our own arguments)
            command, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        sys.exit(f"lock: {done.stderr.strip()}")
    return blocks(done.stdout)


def write(name: str, parts: Iterable[str]) -> None:
    """Write one lock file."""
    LOCKS.mkdir(exist_ok=True)
    (LOCKS / f"{name}.txt").write_text(NOTE + "".join(parts))


def requirement(line: str, *options: str) -> dict[str, str]:
    """Return the lock of one requirement alone."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text(line + "\n")
        return compiled(source, *options)


def main() -> None:
    """Write every lock."""
    for service in SERVICES:
        found = compiled(ROOT / "pyproject.toml", "--universal", "--extra", service)
        write(service, (block for name, block in found.items() if not ACCELERATED.fullmatch(name)))
        if service == "agent":
            write("torch-cuda", (block for name, block in found.items() if ACCELERATED.fullmatch(name)))
    write("build", requirement("setuptools>=80", "--universal").values())
    for wheel in (Path(word) for word in sys.argv[1:]):
        name, version = wheel.name.split("-")[:2]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        write("torch-cpu", [f"{name}=={version} \\\n    --hash=sha256:{digest}\n"])


if __name__ == "__main__":
    main()
