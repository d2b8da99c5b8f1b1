"""A Flower app's folder as a recipe's file, read without Flower."""

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from undersong.cli import app as commands
from undersong.errors import UndersongError
from undersong.own_recipes.flower_app import app_files, recipe_text
from undersong.recipes.catalogue import load_file
from undersong.recipes.flower_app import component_of, config_of, project_of
from undersong.recipes.protocol import RecipeError

EXAMPLES = Path(__file__).parents[2] / "examples" / "flower"
QUICKSTART, LINEAR = EXAMPLES / "quickstart", EXAMPLES / "linear"
OPTIONS = {
    QUICKSTART: ["--train-config", "lr=learning-rate"],
    LINEAR: ["--initial", "linear.task:initial_params"],
}


def written(app: Path, file: Path) -> Path:
    """Write an example's recipe by the command."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done = CliRunner().invoke(commands, ["recipe", "from-flower", str(app), "--out", str(file), *OPTIONS[app]])
    assert done.exit_code == 0, done.output
    return file


@pytest.mark.parametrize("app", [QUICKSTART, LINEAR], ids=lambda app: app.name)
def test_the_files_are_unchanged(app: Path, tmp_path: Path) -> None:
    texts: dict[str, object] = {}
    file = written(app, tmp_path / "made.py")
    exec(file.read_text().partition("\nRECIPE = ")[0], texts)
    files = texts["FILES"]
    assert isinstance(files, dict)
    assert set(files) == {"pyproject.toml", *(f"{app.name}/{name}.py" for name in
                          ("__init__", "task", "client_app", "server_app"))}  # fmt: skip
    assert all(text == (app / path).read_text() for path, text in files.items())


def test_what_the_server_would_say_is_read_from_the_code() -> None:
    text = recipe_text(app_files(QUICKSTART), initial=None, metrics=(), train_config={"lr": "learning-rate"})
    assert 'initial="quickstart.task:Net"' in text
    assert "metrics=('eval_loss', 'eval_acc')" in text
    assert "train_config={'lr': 0.1}" in text


def test_settings_of_tables_have_names_with_dots() -> None:
    text = '[tool.flwr.app.components]\nclientapp = "a.b:app"\n'
    text += "[tool.flwr.app.config]\nx = 1\n[tool.flwr.app.config.y]\nz = true\n"
    document = project_of({"pyproject.toml": text})
    assert config_of(document) == {"x": 1, "y.z": True}
    assert component_of(document) == "a.b:app"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda files: files.pop("pyproject.toml"), "no pyproject.toml"),
        (lambda files: files.update({"pyproject.toml": "["}), "is not TOML"),
        (lambda files: files.update({"pyproject.toml": "[tool]"}), "names no ClientApp"),
    ],
)
def test_what_is_no_app_is_refused(change, said) -> None:
    files = app_files(QUICKSTART)
    change(files)
    with pytest.raises(RecipeError, match=said):
        component_of(project_of(files))


@pytest.mark.parametrize(
    "line",
    ["from flwr.clientapp.mod import secaggplus_mod", "import flwr.clientapp.mod as m\nm.LocalDpMod(1, 1, 1, 1)"],
)
def test_mods_that_hide_or_blur_are_refused(line: str) -> None:
    files = app_files(QUICKSTART)
    files["quickstart/client_app.py"] = f"{line}\n{files['quickstart/client_app.py']}"
    with pytest.raises(UndersongError, match="the job's engine hides updates"):
        recipe_text(files, initial=None, metrics=(), train_config={})


def test_an_app_whose_first_model_is_not_known_says_what_to_name() -> None:
    with pytest.raises(UndersongError) as refused:
        recipe_text(app_files(LINEAR), initial=None, metrics=(), train_config={})
    assert "--initial" in str(refused.value.remedy)


def test_an_unknown_folder_and_a_written_file_are_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(commands, ["recipe", "from-flower", str(tmp_path)])
    assert isinstance(done.exception, UndersongError)
    assert "no pyproject.toml" in str(done.exception)
    file = written(LINEAR, tmp_path / "made.py")
    done = CliRunner().invoke(commands, ["recipe", "from-flower", str(LINEAR), "--out", str(file), *OPTIONS[LINEAR]])
    assert isinstance(done.exception, UndersongError)
    assert "is there already" in str(done.exception)


@pytest.mark.skipif(importlib.util.find_spec("flwr") is not None, reason="Flower is installed here")
def test_without_flower_the_recipe_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"Flower is not installed here: pip install --no-deps 'flwr==1.42.0'"):
        load_file(written(LINEAR, tmp_path / "made.py"))
