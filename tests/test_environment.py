import importlib
import importlib.metadata

import pytest
from packaging.requirements import Requirement

from adavipro import environment
from adavipro.environment import EnvironmentProblem


@pytest.fixture
def installed(monkeypatch):
    """Versions that importlib.metadata tells; to be changed by a test. None is missing."""
    changed: dict[str, str | None] = {}
    version = importlib.metadata.version

    def told(name: str) -> str:
        if name in changed:
            if changed[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return str(changed[name])
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", told)
    return changed


def test_this_environment_is_in_order():
    environment.require()
    rows = environment.report()
    assert {row["what"] for row in rows} >= {"Python", "torch", "torchvision", "open-clip-torch", "papermill"}
    assert not [row for row in rows if row["to mend"]]


def test_every_requirement_of_the_project_is_in_the_report():
    declared = [Requirement(line) for line in importlib.metadata.requires("adavipro") or []]
    wanted = {r.name for r in declared if r.marker is None or "notebooks" in str(r.marker)}
    assert {row["what"] for row in environment.report()} == {"Python", *wanted}


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [
        ("torch", "2.9.1", "torch is 2.9.1, needed >=2.10: pip install 'torch>=2.10'"),
        ("safetensors", None, "safetensors is missing, needed any: pip install 'safetensors'"),
        (
            "open-clip-torch",
            "4.0.0",
            r"open-clip-torch is 4.0.0, needed <4,>=3.2: pip install 'open-clip-torch<4,>=3.2'",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_the_command_that_mends_it(installed, name, version, told):
    installed[name] = version
    with pytest.raises(EnvironmentProblem) as error:
        environment.require()
    assert str(error.value) == told
    assert error.value._render_traceback_() == [f"EnvironmentProblem: {told}"]


def test_tools_of_the_notebooks_may_be_missing(installed):
    installed["papermill"] = None
    environment.require()
    (row,) = (row for row in environment.report() if row["what"] == "papermill")
    assert row["installed"] == "missing"
    assert row["to mend"] == "`pip install 'papermill'`"


def test_torch_and_torchvision_of_different_builds_are_one_sentence(installed, monkeypatch):
    def broken(name: str) -> None:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")

    installed |= {"torch": "2.13.0+cpu", "torchvision": "0.29.1"}
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(EnvironmentProblem) as error:
        environment.require()
    assert str(error.value) == (
        "torch 2.13.0+cpu and torchvision 0.29.1 cannot be imported together (operator torchvision::nms does not "
        "exist): install a pair of one release with `pip install --force-reinstall torch torchvision`"
    )


def test_an_old_python_is_named(monkeypatch):
    monkeypatch.setattr(environment.sys, "version", "3.10.1 (main)")
    with pytest.raises(
        EnvironmentProblem, match=r"^Python is 3.10.1, needed >=3.11: install Python >=3.11 and"
    ):
        environment.require()
