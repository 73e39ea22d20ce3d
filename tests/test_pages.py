"""What a notebook opens and closes with: its parameters, its folder, its numbers."""

import functools
import json

import nbformat
import pytest
import torch
from IPython.testing.globalipapp import start_ipython
from matplotlib.figure import Figure

from adavipro import experiment
from adavipro.lessons import pages
from adavipro.lessons.pages import ParameterError
from adavipro.recipe import SettingError
from adavipro.sweeps.runs import NOTEBOOK

begin = functools.partial(pages.begin, world="embedded", device="auto", out=None)


@pytest.fixture
def page(tmp_path):
    return begin("04_training", dataset="letters", prompt_px=15, epochs=2, seed=3, runs=str(tmp_path))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            {"dataset": "digit"},
            "dataset is 'digit', but the data sets are: digits, letters, sketches, textures",
        ),
        ({"prompt_px": 29}, "prompt_px is 29, but a frame on 56 px images is a whole number from 1 to 28"),
        ({"prompt_px": 0}, "prompt_px is 0, but it must be at least 1"),
        ({"prompt_px": "8"}, "prompt_px is '8' of type str, but it must be int"),
        (
            {"region_px": 9},
            "region_px is 9, but regions must divide the image of 56 px: choose one of 1, 2, 4",
        ),
        ({"seed": -1}, "seed is -1, but it must be at least 0"),
        ({"world": "papers"}, "world is 'papers', but it must be one of: embedded, photographs, paper"),
        ({"device": "cpu:x"}, "device is 'cpu:x', which torch cannot use here"),
    ],
)
def test_a_wrong_parameter_is_one_sentence_and_no_folder_is_made(wrong, told, tmp_path):
    with pytest.raises(ParameterError) as error:
        begin("04_training", **{"runs": str(tmp_path / "runs"), **wrong})
    assert str(error.value).startswith(told)
    assert error.value._render_traceback_() == [f"ParameterError: {error.value}"]
    assert not (tmp_path / "runs").exists()


def test_the_papers_world_has_its_own_data_sets_and_our_recipe(tmp_path):
    with pytest.raises(ParameterError, match="dataset is 'digits' and world is 'paper'"):
        begin("04_training", world="paper", dataset="digits", runs=str(tmp_path))
    given = {"dataset": "dtd", "prompt_px": 112, "region_px": 56, "epochs": 20, "seed": 0}
    page = begin("04_training", world="paper", **given, runs=str(tmp_path))
    run = page.experiment("adavipro")
    assert (run.network.model, run.prompt.prompt_px, run.recipe.epochs) == ("ViT-B-32-quickgelu", 112, 20)
    assert run.recipe.temperature_end == experiment.OURS["temperature_end"]


def test_photographs_have_a_world_too(tmp_path):
    page = begin("10_your_images", world="photographs", prompt_px=112, epochs=7, seed=1, runs=str(tmp_path))
    run = page.experiment("vp", dataset=f"folder:{tmp_path}")
    assert (run.network.model, run.prompt.prompt_px, run.recipe.epochs) == ("efficientnet-lite0", 112, 7)
    with pytest.raises(ParameterError, match="prompt_px is 113, but a frame on 224 px images"):
        begin("10_your_images", world="photographs", prompt_px=113, runs=str(tmp_path))
    with pytest.raises(
        ParameterError, match="dataset is 'digits' and world is 'photographs', but the embedded"
    ):
        begin("10_your_images", world="photographs", dataset="digits", runs=str(tmp_path))


def test_a_name_that_only_papermill_knows_is_refused(tmp_path, monkeypatch):
    class Shell:
        user_ns = {"In": ["", "seed = 0", "# Parameters\nseed = 1\nprompt_xp = 3\n"]}  # noqa: RUF012

    monkeypatch.setattr(pages, "get_ipython", lambda: Shell)
    with pytest.raises(
        ParameterError, match="notebook 03_deciding has no parameter 'prompt_xp': its parameters are"
    ):
        begin("03_deciding", seed=1, runs=str(tmp_path))
    Shell.user_ns["In"][-1] = "# Parameters\nseed = 1\n"
    assert begin("03_deciding", seed=1, runs=str(tmp_path)).parameters["seed"] == 1


def test_the_sheet_of_one_run_refuses_a_name_that_it_does_not_have(monkeypatch):
    first, second = [c.source for c in nbformat.read(NOTEBOOK, 4).cells if c.cell_type == "code"][:2]

    class Shell:
        user_ns = {"In": ["", first, "# Parameters\nsettigns = 'x'\n"]}  # noqa: RUF012

    monkeypatch.setattr(pages, "get_ipython", lambda: Shell)
    with pytest.raises(
        SettingError, match="notebook run has no parameter 'settigns': its parameters are settings, root"
    ):
        exec(second, {})


def test_experiments_have_the_notebooks_parameters_and_the_worlds_recipe(page):
    run = page.experiment("vp", prompt_lr=1.0)
    assert (run.dataset, run.prompt.prompt_px, run.recipe.epochs, run.seed) == ("letters", 15, 2, 3)
    assert (run.method, run.recipe.prompt_lr, run.recipe.batch_size) == ("vp", 1.0, 64)


def test_runs_go_to_the_top_of_the_checkout_from_the_notebooks_folder_too(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    for here in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(here)
        assert begin("02_edges", runs=None).folder == tmp_path / "runs" / "notebooks" / "02_edges"


def test_the_home_folder_is_meant_by_a_tilde_and_a_folder_that_cannot_be_is_one_sentence(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    page = begin("02_edges", runs="~/x", out="~/y")
    assert (page.runs, page.folder) == (tmp_path / "x", tmp_path / "y")
    assert [path.name for path in tmp_path.iterdir()] == ["y"]
    with pytest.raises(
        ParameterError, match=r"^'~nobody-here/x' needs a home folder, and there is none: give"
    ):
        begin("02_edges", runs="~nobody-here/x")
    (tmp_path / "file").touch()
    with pytest.raises(ParameterError, match="Not a directory"):
        begin("02_edges", runs=str(tmp_path / "file"))


def test_a_shown_figure_is_written_as_png_and_as_vectors(page):
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    shown = page.show(figure, "line", "a line")
    assert (page.folder / "line.png").read_bytes() == shown.data
    assert b"<svg" in (page.folder / "line.svg").read_bytes()
    assert shown.width == 200
    assert shown.alt == "a line"
    page.finish()
    assert json.loads((page.folder / "result.json").read_text())["figures"] == {"line.png": "a line"}


def not_there(x):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("solution", "told"),
    [
        (lambda x: x + 1, "right"),
        (lambda x: None, "not filled in yet"),
        (not_there, "not filled in yet"),
        (lambda x: x, "not yet: it runs, but what it returns is not what is asked for"),
        (lambda x: x + torch.ones(3), "not yet: RuntimeError: The size of tensor a"),
        (lambda: 1, "not yet: TypeError: "),
        (lambda x: {}["a\nb"], "not yet: KeyError: "),
    ],
)
def test_an_exercise_is_told_in_one_line_and_never_stops_the_notebook(solution, told, capsys):
    pages.check(solution, lambda f: torch.equal(f(torch.ones(2)), torch.full((2,), 2.0)))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(told)


def test_the_end_writes_numbers_parameters_time_and_versions(page, capsys):
    page.finish(accuracy=0.5)
    result = json.loads((page.folder / "result.json").read_text())
    assert result["key"] == page.folder.name
    assert result["numbers"] == {"accuracy": 0.5}
    assert result["parameters"] == {"dataset": "letters", "prompt_px": 15, "epochs": 2, "seed": 3}
    assert result["versions"]["adavipro"]
    assert result["seconds"] >= 0
    assert 10 < result["memory_mb"] < 1e5
    assert "torch" in capsys.readouterr().out


def test_a_parameter_error_in_ipython_shows_its_sentence_alone(capsys, tmp_path):
    shell = start_ipython()
    given = {"world": "embedded", "device": "cpu", "runs": str(tmp_path), "out": None}
    shell.run_cell(f"from adavipro.lessons import pages; pages.begin('x', seed=-1, **{given})")
    told = capsys.readouterr()
    assert (told.out + told.err).strip() == "ParameterError: seed is -1, but it must be at least 0"
