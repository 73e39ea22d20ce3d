"""What is installed is checked before any command and in every notebook."""

import importlib
from importlib import metadata

import pytest

from adavipro.__main__ import main
from adavipro.lessons import install
from adavipro.lessons.install import EnvironmentProblem


@pytest.fixture
def installed(monkeypatch):
    """Versions that importlib.metadata tells; to be changed by a test. None is missing."""
    changed: dict[str, str | None] = {}
    version = metadata.version

    def told(name: str) -> str:
        if name in changed and changed[name] is None:
            raise metadata.PackageNotFoundError(name)
        return str(changed.get(name) or version(name))

    monkeypatch.setattr(metadata, "version", told)
    return changed


def test_this_environment_is_in_order(installed):
    install.require()
    installed["papermill"] = None  # tools of the notebooks are the reader's choice
    install.require()
    installed["papermill"] = "2.5.0"  # but what is there must fit
    with pytest.raises(
        EnvironmentProblem, match=r"papermill is 2\.5\.0, needed >=2\.6: pip install 'papermill>=2\.6'"
    ):
        install.require()


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [
        ("torch", "2.9.1", "torch is 2.9.1, needed >=2.10: pip install 'torch>=2.10'"),
        ("tqdm", None, "tqdm is missing, needed >=4.64: pip install 'tqdm>=4.64'"),
        ("timm", "0.6.13", "timm is 0.6.13, needed >=1.0.17: pip install 'timm>=1.0.17'"),
        ("pillow", "9.5.0", "pillow is 9.5.0, needed >=10.1: pip install 'pillow>=10.1'"),
    ],
)
def test_what_does_not_fit_is_named_with_the_command_that_mends_it(installed, capsys, name, version, told):
    installed[name] = version
    with pytest.raises(EnvironmentProblem) as error:
        install.require()
    assert str(error.value) == told
    assert error.value._render_traceback_() == [f"EnvironmentProblem: {told}"]
    with pytest.raises(SystemExit):
        main(["run", "--method", "zero-shot"])
    assert capsys.readouterr().err == f"adavipro: {told}\n"


def test_torch_and_torchvision_of_different_builds_are_one_sentence(installed, monkeypatch):
    def broken(name: str) -> None:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")

    installed |= {"torch": "2.13.0+cpu", "torchvision": "0.29.1"}
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(EnvironmentProblem) as error:
        install.require()
    assert str(error.value) == (
        "torch 2.13.0+cpu and torchvision 0.29.1 cannot be imported together (operator torchvision::nms does not "
        "exist): install a pair of one release with `pip install --force-reinstall torch torchvision`"
    )


def test_a_copy_that_is_not_installed_says_so(monkeypatch, capsys):
    def gone(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", gone)
    with pytest.raises(SystemExit) as caught:
        main(["run"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("adavipro: adavipro is not installed here: pip install -e")
