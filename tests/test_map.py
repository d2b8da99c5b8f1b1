"""Each test file lies where the code that it tests lies; the exceptions are here, with what they test."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MIRRORED = ("shared", "undersong", "recipes", "services")
WHOLE = ("laws", "vectors")
"""Files of this name test their folder as a whole."""
OTHERS = {
    "recipes/test_data_page.py": "docs/data.md",
    "recipes/test_own_model_page.py": "docs/own-model.md",
    "services/agent/test_crashes.py": "an agent process that is killed at any point",
    "services/agent/test_protocol_page.py": "docs/agent-protocol.md",
    "services/aggregator/test_oneshot.py": "rounds with custodians, through the aggregator's API",
    "services/aggregator/test_twoserver.py": "rounds with a second server, through the aggregator's API",
    "services/keys/test_evidence.py": "undersong.shared.transparency on what the keys service really signs",
    "services/test_program_failures.py": "what every service's own commands say of paths and databases they cannot use",
    "shared/test_wrong_lengths.py": "every reader of a byte string in shared",
    "undersong/simulate/test_migration_pages.py": "docs/migrate/tff.md",
    "undersong/cli/test_paths.py": "what every command says of a path that it cannot use",
}


def files_of_tests() -> Iterator[Path]:
    """Yield the files of the mirrored folders, relative to `tests`."""
    for folder in MIRRORED:
        for path in sorted((ROOT / "tests" / folder).rglob("test_*.py")):
            yield path.relative_to(ROOT / "tests")


def source_of(test: Path) -> Path | None:
    """Return what `test_NAME.py` or `test_NAME_ASPECT.py` tests: the module or folder NAME of the same folder."""
    folder, name = ROOT / test.parent, test.stem.removeprefix("test_")
    if name in (*WHOLE, folder.name):
        return folder
    words = name.split("_")
    for count in range(len(words), 0, -1):
        source = folder / "_".join(words[:count])
        if source.with_suffix(".py").is_file() or (source / "__init__.py").is_file():
            return source
    return None


def test_every_test_file_has_its_source() -> None:
    lost = [str(test) for test in files_of_tests() if source_of(test) is None and str(test) not in OTHERS]
    assert not lost, "name it after the module that it tests, or say in OTHERS what it tests"


def test_no_exception_is_out_of_date() -> None:
    assert set(OTHERS) <= {str(test) for test in files_of_tests() if source_of(test) is None}


def test_a_test_whose_source_is_gone_would_be_noticed() -> None:
    assert source_of(Path("shared/test_no_such_module.py")) is None
    assert source_of(Path("shared/wire/test_manifest.py")) == ROOT / "shared" / "wire" / "manifest"


def test_no_module_is_loaded_by_its_path() -> None:
    """Tests import what they need; what is no module (an example, a script of `deploy`) is run or loaded by these."""
    loads = re.compile(r"spec_from_file_location")
    found = {
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__) and loads.search(path.read_text())
    }
    assert found <= {
        "test_supply_chain.py",
        "test_poisoning.py",
        "test_hospital.py",
        "test_bank.py",
        "test_city.py",
        "test_survival.py",
        "test_vision.py",
        "test_text.py",
    }
