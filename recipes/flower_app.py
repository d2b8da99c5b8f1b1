"""The files of a Flower app: what its `pyproject.toml` says, and its modules, imported from texts and not from a disk.

So an app is one file with its recipe, whose digest covers all that runs.
"""

import ast
import importlib
import importlib.metadata
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any, Final

from undersong.recipes.protocol import RecipeError
from undersong.shared.names import hint

PROJECT: Final = "pyproject.toml"
COMPONENT: Final = "tool.flwr.app.components"
VERSION: Final = "1.42"
REQUIREMENTS: Final = ("flwr==1.42.0", "iterators", "grpcio", "protobuf", "pycryptodome", "tomli")
"""What a ClientApp needs. What flwr's command line and servers ask for is older than the platform's, and stays out."""
INSTALL: Final = "pip install --no-deps 'flwr==1.42.0' " + " ".join(REQUIREMENTS[1:])
MODS: Final = frozenset(
    {"secagg_mod", "secaggplus_mod", "LocalDpMod", "fixedclipping_mod", "adaptiveclipping_mod"}
)  # fmt: skip
"""Mods that hide or blur updates, which the job's engine and `privacy` do here."""
Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class FlowerApp:
    """An app that was imported: its ClientApp, its settings, and whether it is made of a `client_fn`."""

    client: Any
    config: dict[str, Value]
    description: str
    is_legacy: bool

    def attribute(self, reference: str) -> Any:
        """Return what `module:name` refers to; raises `RecipeError`."""
        return _attribute(reference)


def load_app(files: Mapping[str, str]) -> FlowerApp:
    """Import an app's ClientApp from its texts; raises `RecipeError`."""
    document = project_of(files)
    if used := mods_of(files):
        said = f"the app uses {used[0]}, which has no counterpart in a ClientApp here"
        raise RecipeError(f"{said}: the job's engine hides updates, and its `privacy` adds noise; take it out")
    _check_version()
    _install(files)
    client = _attribute(component_of(document))
    if not callable(client):
        raise RecipeError(f"{component_of(document)} is no ClientApp")
    project = document.get("project", {})
    legacy = getattr(client, "_call", None) is not None  # set by the constructor for apps of a `client_fn` only
    return FlowerApp(client, config_of(document), str(project.get("description", "")), legacy)


def project_of(files: Mapping[str, str]) -> dict[str, Any]:
    """Return the app's `pyproject.toml`; raises `RecipeError`."""
    try:
        return tomllib.loads(files[PROJECT])
    except KeyError:
        raise RecipeError(f"the app has no {PROJECT}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{PROJECT} is not TOML: {error}") from None


def component_of(document: Mapping[str, Any]) -> str:
    """Return the reference to the ClientApp, `module:name`; raises `RecipeError`."""
    found: Any = document
    for part in COMPONENT.split("."):
        found = found.get(part, {}) if isinstance(found, dict) else {}
    reference = found.get("clientapp") if isinstance(found, dict) else None
    if not isinstance(reference, str) or reference.count(":") != 1:
        raise RecipeError(f'{PROJECT} names no ClientApp: [{COMPONENT}] clientapp = "module:name"')
    return reference


def config_of(document: Mapping[str, Any]) -> dict[str, Value]:
    """Return the app's settings (`[tool.flwr.app.config]`), those of tables by names with dots."""
    try:
        config = document["tool"]["flwr"]["app"].get("config", {})
    except KeyError:
        config = {}
    return dict(_flat(config, ""))


def _flat(table: Mapping[str, Any], prefix: str) -> list[tuple[str, Value]]:
    found: list[tuple[str, Value]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            found.append((prefix + name, value))
        else:
            raise RecipeError(f"{PROJECT}: setting {prefix}{name} is no number, text or truth value")
    return found


def mods_of(files: Mapping[str, str]) -> list[str]:
    """Return the names of mods in the app's code that hide or blur updates; raises `RecipeError` for no Python."""
    found = set[str]()
    for path, text in files.items():
        if not path.endswith(".py"):
            continue
        for node in ast.walk(parsed(path, text)):
            names = [each.name for each in node.names] if isinstance(node, ast.ImportFrom | ast.Import) else []
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            found |= MODS & set(names)
    return sorted(found)


def parsed(path: str, text: str) -> ast.Module:
    """Return the syntax tree of a file; raises `RecipeError`."""
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise RecipeError(f"{path} is not Python: line {error.lineno}: {error.msg}") from None


def _check_version() -> None:
    try:
        found = importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        raise RecipeError(f"Flower is not installed here: {INSTALL}") from None
    if not found.startswith(f"{VERSION}."):
        raise RecipeError(f"Flower {found} is installed here, and apps run on {VERSION}: {INSTALL}")


def _attribute(reference: str) -> Any:
    module_name, _, name = reference.partition(":")
    loader = next((each for each in sys.meta_path if isinstance(each, _Texts) and each.has(module_name)), None)
    if loader is None:
        raise RecipeError(f"the app has no module {module_name}, which {reference!r} names")
    module = importlib.import_module(module_name)
    found = getattr(module, name, None)
    if found is None:
        raise RecipeError(f"{module_name} has no {name!r}{hint(name, vars(module))}")
    return found


def _install(files: Mapping[str, str]) -> None:
    """Let the app's modules be imported; raises `RecipeError` where one of them has the name of another module."""
    texts = _Texts(files)
    for top in texts.tops:
        for other in [each for each in sys.meta_path if isinstance(each, _Texts) and top in each.tops]:
            if other.files != texts.files:
                raise RecipeError(f"two Flower apps have a package {top}: rename one of them")
            return
        if top in sys.modules or top in sys.stdlib_module_names:
            raise RecipeError(f"the app's package {top} has the name of one that runs here already: rename it")
    sys.meta_path.insert(0, texts)  # as under Flower, where an app's own folder comes first


class _Texts(MetaPathFinder, InspectLoader):
    """Finds and loads modules whose texts are in memory."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = {path: text for path, text in files.items() if path.endswith(".py")}
        self._paths: dict[str, str] = {}
        for path in self.files:
            parts = path.removesuffix(".py").split("/")
            for depth in range(1, len(parts)):
                self._paths.setdefault(".".join(parts[:depth]), "")  # a package without a file of its own
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self._paths[name] = path
        self.tops = {name.partition(".")[0] for name in self._paths}

    def has(self, name: str) -> bool:
        """Return whether it has a module of this name."""
        return name in self._paths

    def find_spec(
        self,
        fullname: str,
        path: Any = None,  # noqa: ARG002 (the import system's convention)
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return where a module comes from."""
        if fullname not in self._paths:
            return None
        origin = self._paths[fullname] or None
        return ModuleSpec(fullname, self, origin=origin, is_package=self.is_package(fullname))

    def is_package(self, fullname: str) -> bool:
        """Return whether a module is a package."""
        path = self._paths[fullname]
        return not path or path.rpartition("/")[2] == "__init__.py"

    def get_source(self, fullname: str) -> str:
        """Return a module's text."""
        return self.files.get(self._paths[fullname], "")

    def get_code(self, fullname: str) -> CodeType:
        """Return a module's code, whose places in tracebacks are the app's own paths."""
        return compile(self.get_source(fullname), self._paths[fullname] or fullname, "exec", dont_inherit=True)
