"""The files that only run elsewhere: valid, modest, and calling only commands that exist."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.specifiers import SpecifierSet

TOP = Path(__file__).parents[1]
PYTHONS = SpecifierSet(tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["requires-python"])
WORKFLOWS = sorted((TOP / ".github" / "workflows").glob("*.yml"))
DEVCONTAINER = json.loads((TOP / ".devcontainer" / "devcontainer.json").read_text())
ACTION = re.compile(r"actions/[a-z-]+@v\d+")
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def steps(path: Path) -> list[dict[str, object]]:
    return [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]


def commands(path: Path) -> str:
    return "\n".join(str(step.get("run", "")) for step in steps(path))


def valid(path: Path) -> bool:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        str(path),
    ]
    return subprocess.run(command, capture_output=True).returncode == 0


def has_target(name: str) -> bool:
    return subprocess.run(["make", "-n", name], cwd=TOP, capture_output=True).returncode == 0


def test_a_gpu_gives_notebooks_only_parameters_that_they_have():
    given = re.findall(
        r'notebooks/(\d\d)"\*\) own=\(([^)]*)\)', commands(TOP / ".github" / "workflows" / "gpu.yml")
    )
    assert len(given) == 4
    for number, own in given:
        (path,) = (TOP / "notebooks").glob(f"{number}_*.ipynb")
        cells = nbformat.read(path, 4).cells
        (known,) = (c.source for c in cells if "parameters" in c.metadata.get("tags", []))
        for name in re.findall(r"-[rp] (\w+)", own):
            assert re.search(rf"^{name} = ", known, re.MULTILINE), (path.stem, name)


def test_there_are_two_workflows():
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "gpu.yml"]


@every_workflow
def test_a_workflow_keeps_to_the_schema(path: Path):
    assert valid(path)


def test_a_workflow_that_breaks_the_schema_is_found(tmp_path: Path):
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "runs-at:"))
    assert not valid(broken)


@every_workflow
def test_a_workflow_may_only_read_and_always_ends(path: Path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    assert all(job["timeout-minutes"] > 0 for job in workflow["jobs"].values())
    assert "secrets." not in path.read_text()


@every_workflow
def test_actions_are_githubs_own_at_a_major_version(path: Path):
    used = [str(step["uses"]) for step in steps(path) if "uses" in step]
    assert used
    assert [name for name in used if not ACTION.fullmatch(name)] == []


@every_workflow
def test_what_a_workflow_calls_exists(path: Path):
    targets = set(re.findall(r"\bmake ([\w./-]+)", commands(path)))
    assert targets
    assert [name for name in sorted(targets) if not has_target(name)] == []
    installed = Path(sys.executable).parent
    assert [
        n for n in re.findall(r"\.venv/bin/([\w-]+)", commands(path)) if not (installed / n).exists()
    ] == []


def test_a_target_that_is_not_there_is_found():
    assert not has_target("no-such-target")


def test_ci_runs_the_oldest_python_and_a_newer_one():
    jobs = yaml.safe_load((TOP / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    for name in ("test", "wheel"):
        oldest, *newer = jobs[name]["strategy"]["matrix"]["python"]
        assert SpecifierSet(f">={oldest}") == PYTHONS
        assert newer
        assert all(version in PYTHONS for version in newer)


def test_the_gpu_workflow_sleeps_where_no_runner_is_named():
    jobs = yaml.safe_load((TOP / ".github" / "workflows" / "gpu.yml").read_text())["jobs"]
    assert [job["if"] for job in jobs.values()] == ["${{ vars.GPU_RUNNER != '' }}"]


def test_the_devcontainer_installs_as_the_makefile_does():
    made = re.fullmatch(r"make (\S+)", DEVCONTAINER["postCreateCommand"])
    assert made
    assert has_target(made[1])
    assert DEVCONTAINER["image"].rpartition(":")[2] in PYTHONS
    assert DEVCONTAINER["forwardPorts"] == [8888]
    assert "ms-toolsai.jupyter" in DEVCONTAINER["customizations"]["vscode"]["extensions"]
