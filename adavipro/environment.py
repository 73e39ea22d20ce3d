"""What must be installed, what is, and the command that mends the difference; what a process has taken."""

import importlib
import importlib.metadata
import resource
import sys

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PAIR = ("torch", "torchvision")  # work only as a pair of one release


class EnvironmentProblem(ImportError):
    """A package is missing, too old or does not fit another; shown as one sentence."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def _requirements() -> list[Requirement]:
    """What the project declares for itself and, with a marker, for its notebooks."""
    declared = [Requirement(line) for line in importlib.metadata.requires("adavipro") or []]
    return [r for r in declared if r.marker is None or r.marker.evaluate({"extra": "notebooks"})]


def _state(requirement: Requirement) -> tuple[str, str]:
    """The installed version, and the command that mends it; an empty command where it fits."""
    command = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return "", command
    fits = requirement.specifier.contains(version, prereleases=True)
    return version, "" if fits else command


def pair_problem() -> str:
    """What is wrong where torch and torchvision do not fit each other: one sentence, or nothing."""
    try:
        for name in PAIR:
            importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        told = str(error).splitlines()[0]
        versions = " and ".join(f"{n} {_version(n)}" for n in PAIR)
        return (
            f"{versions} cannot be imported together ({told}): install a pair of one release with "
            "`pip install --force-reinstall torch torchvision`"
        )
    return ""


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(missing)"


def report() -> list[dict[str, str]]:
    """A row for Python and each package: what is needed, what is installed, how to mend it."""
    needed = importlib.metadata.metadata("adavipro")["Requires-Python"]
    python = sys.version.split()[0]
    mend = (
        ""
        if SpecifierSet(needed).contains(python)
        else f"install Python {needed} and make the environment anew"
    )
    rows = [{"what": "Python", "for": "all", "needed": needed, "installed": python, "to mend": mend}]
    for requirement in _requirements():
        version, command = _state(requirement)
        rows.append(
            {
                "what": requirement.name,
                "for": "all" if requirement.marker is None else "notebooks",
                "needed": str(requirement.specifier) or "any",
                "installed": version or "missing",
                "to mend": f"`{command}`" if command else "",
            }
        )
    return rows


def require() -> None:
    """Check that what the module needs is installed and fits. Tools of the notebooks are the reader's choice.

    Raises:
        EnvironmentProblem: naming each package that is missing or does not fit, and the command that mends it.
    """
    wrong = [
        f"{row['what']} is {row['installed']}, needed {row['needed']}: {row['to mend'].strip('`')}"
        for row in report()
        if row["to mend"] and row["for"] == "all"
    ]
    problem = "; ".join(wrong) or pair_problem()
    if problem:
        raise EnvironmentProblem(problem)


def device_name(device: str) -> str:
    """What computes: a GPU by its maker's name."""
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(device)


def peak_memory_mb(device: str = "cpu") -> int:
    """Most memory that this process has had: the GPU's where it computes on one, otherwise the machine's."""
    if device.startswith("cuda"):
        import torch

        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    return round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)
    )
