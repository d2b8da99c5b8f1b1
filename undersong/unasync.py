"""Generate the sync client from the async one; with --check, fail when a file differs.

The two differ only in what awaits, so one is written and the other follows word by word, as in httpcore. Ruff, a
development dependency, joins the lines that became shorter and drops unused imports.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent / "client"
SOURCE, TARGET = HERE / "aio", HERE / "sync"
_NOTE: Final = '"""{line}\n\nGenerated from `{source}` by `make client`: change that file.\n"""\n'
_RULES: Final = (
    (r"^import asyncio$", "import time"),
    (r"await asyncio\.to_thread\(([\w.]+)(?:, )?", r"\1("),
    (r"asyncio\.sleep", "time.sleep"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"(?<!\w)\(await (self\.\w+\((?:[^()]|\([^()]*\))*\))\)", r"\1"),  # brackets that only await needed
    (r"\bawait ", ""),
    (r"\bAsync(Client|Connection|\w+Methods)\b", r"\1"),
    (r"\bAsyncBaseTransport\b", "BaseTransport"),
    (r"\bAsyncGenerator\[([\w.]+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"\baclosing\b", "closing"),
    (r"\ba(close|read|iter_lines|iter_bytes)\(", r"\1("),
    (r"\bundersong\.client\.aio\b", "undersong.client.sync"),
    (r"\bfor (\w+) in (.*):\n +yield \1$", r"yield from \2"),
)


def translated(source: str, name: str) -> str:
    """Return the sync module that follows from the async module `name` with this source."""
    text = re.sub(r'\A""".*?"""\n', "", source, flags=re.DOTALL)
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    line = source.partition("\n")[0].strip('"').replace("asyncio programs", "ordinary programs and the command line")
    note = _NOTE.format(line=line, source=f"aio/{name}")
    text = _ruff(["check", "--fix-only", "--quiet", "--select", "I,F401,F811"], note + text, name)
    return _ruff(["format", "--quiet"], text, name)


def _ruff(command: list[str], text: str, name: str) -> str:
    ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET / name), "-"]
    return subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    fresh = {path.name: translated(path.read_text("utf-8"), path.name) for path in sorted(SOURCE.glob("*.py"))}
    stored = {path.name: path.read_text("utf-8") for path in TARGET.glob("*.py")}
    drifted = sorted(name for name in fresh.keys() | stored.keys() if fresh.get(name) != stored.get(name))
    if not check:
        TARGET.mkdir(exist_ok=True)
        for name in drifted:
            if name in fresh:
                (TARGET / name).write_text(fresh[name], "utf-8")
            else:
                (TARGET / name).unlink()
        return
    if drifted:
        sys.stderr.write(f"The sync client differs from the async one: {', '.join(drifted)}; run `make client`\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
