"""The files that install the project agree, and what they install works away from the checkout."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def parsed(lines: list[str]) -> dict[str, Requirement]:
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in requirements}


def constraints() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return parsed([line for line in lines if not line.startswith("#")])


def test_environment_lists_what_pyproject_lists():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    from_conda = [entry for entry in environment if isinstance(entry, str)]
    (from_pip,) = [entry["pip"] for entry in environment if isinstance(entry, dict)]
    assert from_pip[-1] == "-e ."
    extras = [*EXTRAS["notebooks"], *EXTRAS["sweeps"], *EXTRAS["photographs"]]
    expected = [f"python{PROJECT['requires-python']}", "pip", *PROJECT["dependencies"], *extras]
    assert parsed(from_conda + from_pip[:-1]) == parsed(expected)


def test_constraints_pin_every_direct_dependency_to_a_version_that_it_allows():
    pins = constraints()
    direct = parsed([*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)])
    assert direct.keys() <= pins.keys()
    for name, requirement in direct.items():
        (pin,) = pins[name].specifier
        assert pin.operator == "==", name
        assert pin.version in requirement.specifier, name


def test_every_direct_dependency_says_from_which_version_on():
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    unbound = [r.name for r in map(Requirement, lines) if all(s.operator != ">=" for s in r.specifier)]
    assert unbound == []


def test_constraints_leave_the_gpu_packages_to_torch():
    assert not [name for name in constraints() if name.startswith(("cuda-", "nvidia-", "triton"))]


def test_citation_agrees_with_pyproject():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["title"] == PROJECT["name"]
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert citation["authors"] == PROJECT["authors"]


def test_installed_version_agrees_with_pyproject():
    installed = importlib.metadata.version("adavipro")
    assert installed == PROJECT["version"], "the checkout was installed before its version changed"


def pip(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", *arguments], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (built,) = folder.iterdir()
    return built


def test_wheel_holds_the_module_and_its_data_and_nothing_else(wheel: Path):
    held = set(zipfile.ZipFile(wheel).namelist())
    metadata = f"adavipro-{PROJECT['version']}.dist-info/"
    assert {path.relative_to(ROOT).as_posix() for path in ROOT.glob("adavipro/**/*.py")} <= held
    assert "adavipro/data/small_clip/open_clip_config.json" in held
    assert "adavipro/data/small_clip/open_clip_model.safetensors" in held
    assert f"{metadata}licenses/LICENSE" in held
    assert not [name for name in held if not name.startswith(("adavipro/", metadata))]
    assert not [name for name in held if name.endswith((".pyc", ".partial"))]


def test_installed_wheel_finds_its_data_away_from_the_checkout(wheel: Path, tmp_path: Path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", "--no-deps", "--no-index", "--target", site, wheel)
    script = """
import json, adavipro
from adavipro.io import data_folder
from adavipro.sweeps import grids, runs
grids.read(grids.TABLES / "embedded.yaml")
found = {"module": adavipro.__file__, "data": data_folder(), "tables": grids.TABLES, "sheet": runs.NOTEBOOK}
print(json.dumps({name: str(path) for name, path in found.items()}))
"""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", script]
    told = subprocess.run(command, cwd=elsewhere, env=environment, check=True, capture_output=True, text=True)
    found = json.loads(told.stdout)
    assert Path(found["module"]) == site / "adavipro" / "__init__.py"
    assert Path(found["data"]) == site / "adavipro" / "data"
    assert Path(found["tables"]) == site / "adavipro" / "data" / "tables"
    assert Path(found["sheet"]) == site / "adavipro" / "data" / "run.ipynb"
    shipped = ROOT / "data" / "small_clip" / "open_clip_model.safetensors"
    installed = Path(found["data"]) / "small_clip" / "open_clip_model.safetensors"
    assert installed.read_bytes() == shipped.read_bytes()
