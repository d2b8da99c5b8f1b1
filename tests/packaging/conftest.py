"""An environment of its own with the built wheel in it, and beside it other people's packages of ordinary names."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OTHERS = ("shared", "services", "recipes")
OWN = "another project's"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "undersong", *OTHERS)
BUILD = (
    "import sys, setuptools.build_meta as backend; "
    "print(getattr(backend, f'build_{sys.argv[1]}')(sys.argv[2]), file=sys.stderr)"
)


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel, and a folder from which nothing of the checkout can be seen."""

    wheel: Path
    environment: Path
    folder: Path

    @property
    def site_packages(self) -> Path:
        return next((self.environment / "lib").glob("python*/site-packages"))

    def run(self, *words: str, timeout_s: float = 100) -> str:
        """Run a command of the environment; its standard output comes back."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "UNDERSONG"))}
        done = subprocess.run(
            [str(self.environment / "bin" / words[0]), *words[1:]],
            cwd=self.folder,
            env={**kept, "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, code: str, timeout_s: float = 100) -> str:
        return self.run("python", "-c", code, timeout_s=timeout_s).strip()


def build(kind: str, source: Path, out: Path) -> Path:
    """Have the build backend of this environment make an sdist or a wheel; no package is fetched."""
    pytest.importorskip("setuptools", reason="setuptools, which builds the wheel, is not in this environment")
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(out)], cwd=source, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    shutil.unpack_archive(build("sdist", source, folder / "sdist"), folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    wheel = build("wheel", unpacked, folder / "wheel")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=100)
    made = Installed(wheel, environment, folder / "elsewhere")
    made.folder.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment / "bin" / "python")]
    install = [*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    subprocess.run(install, check=True, timeout=100)
    lend_kernels(made.site_packages / "undersong" / "shared")
    # What it needs comes from this environment, whose own link to the checkout is not followed from there.
    (made.site_packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in OTHERS:
        (made.site_packages / name).mkdir()
        (made.site_packages / name / "__init__.py").write_text(f"OWNER = {OWN!r}\n")
    return made


def lend_kernels(shared: Path) -> None:
    """Copy numba's compiled kernels of this checkout: compiling them again takes ten seconds of a processor.

    Numba takes one only where its source has the same name, size and time.
    """
    for compiled in (ROOT / "shared").rglob("*.nb[ic]"):
        source = compiled.parent.parent / f"{compiled.name.partition('.')[0]}.py"
        target = shared / compiled.relative_to(ROOT / "shared")
        target.parent.mkdir(exist_ok=True)
        shutil.copy(compiled, target)
        shutil.copystat(source, target.parent.parent / source.name)


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())
