"""A Flower app's folder as one recipe file: its texts unchanged, and what its ServerApp would say filled in."""

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from undersong.errors import UndersongError
from undersong.recipes.flower_app import PROJECT, component_of, config_of, mods_of, parsed, project_of
from undersong.recipes.protocol import RecipeError
from undersong.shared.files import read_text

MOST_BYTES: Final = 2**20
_COUNT: Final = "num-examples"
_MODULES: Final = frozenset({"Module", "LightningModule"})


def app_files(folder: Path) -> dict[str, str]:
    """Return the texts of an app by their paths: `pyproject.toml` and the Python files of its package.

    Raises UndersongError where the folder is no Flower app.
    """
    files = {PROJECT: _text(folder / PROJECT)} if (folder / PROJECT).is_file() else {}
    try:
        top = component_of(project_of(files)).partition(":")[0].partition(".")[0]
    except RecipeError as error:
        raise UndersongError(f"{folder}: {error.detail}", remedy="name the folder of a Flower app") from None
    single = folder / f"{top}.py"
    found = [single] if single.is_file() else sorted((folder / top).rglob("*.py"))
    if not found:
        raise UndersongError(
            f"{folder} has no package {top}, which its {PROJECT} names", remedy="name the app's folder"
        )
    files |= {path.relative_to(folder).as_posix(): _text(path) for path in found}
    if (size := sum(len(text.encode()) for text in files.values())) > MOST_BYTES:
        raise UndersongError(f"the app is {size:,} bytes of text", remedy=f"keep it below {MOST_BYTES:,}")
    return files


def recipe_text(
    files: Mapping[str, str], *, initial: str | None, metrics: tuple[str, ...], train_config: Mapping[str, Any]
) -> str:
    """Return the recipe file of an app; what is not said is read from its code.

    initial: `module:function` of the first model. metrics: names of an evaluation's metrics. train_config: what the
    ServerApp would send with each round. Raises UndersongError where the code does not tell.
    """
    try:
        used, config = mods_of(files), config_of(project_of(files))
        trees = {path: parsed(path, text) for path, text in files.items() if path.endswith(".py")}
    except RecipeError as error:
        raise UndersongError(error.detail, remedy="correct the app") from None
    if used:
        said = f"the app uses {used[0]}: here the job's engine hides updates, and its `privacy` adds noise"
        raise UndersongError(said, remedy="take the mod out of the ClientApp")
    initial = initial or next(_networks(trees), None)
    if initial is None:
        raise UndersongError(
            "no class of the app is a torch module that needs no arguments, so what the first model is, is not known",
            remedy="name what makes it: --initial package.module:function",
        )
    metrics = metrics or tuple(_metrics(trees))
    if not metrics:
        raise UndersongError(
            f'no function returns metrics beside "{_COUNT}"', remedy="name those of evaluations: --metric eval_loss"
        )
    sent = {name: config.get(value, value) if isinstance(value, str) else value for name, value in train_config.items()}
    name = project_of(files).get("project", {}).get("name", "app")
    texts = "".join(_entry(path, files[path]) for path in sorted(files))
    arguments = f"initial={json.dumps(initial)}, metrics={metrics!r}, train_config={sent!r}"
    return (
        f'"""Recipe of the Flower app {name}: its files as they are, run as a ClientApp by `FlowerRecipe`."""\n\n'
        "from undersong.recipe import FlowerRecipe\n\n"
        f"FILES = {{\n{texts}}}\n\n"
        f"RECIPE = FlowerRecipe(__file__, files=FILES, {arguments})\n"
    )


def _entry(path: str, text: str) -> str:
    lines = text.splitlines(keepends=True) or [""]
    written = "".join(f"        {json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    return f"    {json.dumps(path)}: (\n{written}    ),\n"


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except UnicodeDecodeError:
        raise UndersongError(f"{path} is no text in UTF-8", remedy="an app here is Python and TOML alone") from None


def _networks(trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """Yield the classes that are torch modules and need no arguments, as `module:Class`."""
    for path, tree in trees.items():
        for node in tree.body:
            if not isinstance(node, ast.ClassDef) or not any(_last(base) in _MODULES for base in node.bases):
                continue
            starts = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
            if all(len(each.args.args) - 1 == len(each.args.defaults) for each in starts):
                yield f"{path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}:{node.name}"


def _metrics(trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """Yield the names beside `num-examples` in what functions decorated with `@app.evaluate()` put together."""
    for tree in trees.values():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or "evaluate" not in {_last(each) for each in node.decorator_list}:
                continue
            for each in ast.walk(node):
                keys = (
                    [key.value for key in each.keys if isinstance(key, ast.Constant)]
                    if isinstance(each, ast.Dict)
                    else []
                )
                if _COUNT in keys:
                    yield from (str(key) for key in keys if key != _COUNT)


def _last(node: ast.expr) -> str:
    """Return the last name of an expression such as `nn.Module` or `app.evaluate()`."""
    if isinstance(node, ast.Call):
        return _last(node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
