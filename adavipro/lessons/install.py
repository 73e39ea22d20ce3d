"""Is what the module needs installed, and does it fit? One sentence where not, before anything else is imported."""

import importlib
from importlib import metadata

PAIR = ("torch", "torchvision")  # work only as a pair of one release


class EnvironmentProblem(ImportError):
    """A package is missing, too old or does not fit another; shown as one sentence, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def require(pair: bool = True) -> None:
    """Check that what adavipro declares is installed and fits; of its extras, that what is there fits.

    Args:
        pair: whether torch and torchvision are imported too, to see that they work together.

    Raises:
        EnvironmentProblem: naming each package that does not, and the command that mends it.
    """
    from packaging.requirements import Requirement  # here: help needs to be quick

    try:
        declared = [Requirement(line) for line in metadata.requires("adavipro") or []]
    except metadata.PackageNotFoundError:
        told = "adavipro is not installed here: pip install -e '.[notebooks]' in the folder with its pyproject.toml"
        raise EnvironmentProblem(told) from None
    wrong = []
    for needed in declared:
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            if needed.marker and not needed.marker.evaluate({"extra": ""}):
                continue
            version = "missing"
        if version == "missing" or not needed.specifier.contains(version, prereleases=True):
            told = f"{needed.name} is {version}, needed {needed.specifier or 'any'}"
            wrong.append(f"{told}: pip install '{needed.name}{needed.specifier}'")
    if wrong:
        raise EnvironmentProblem("; ".join(wrong))
    try:
        for name in PAIR if pair else ():
            importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        versions = " and ".join(f"{name} {metadata.version(name)}" for name in PAIR)
        told = f"{versions} cannot be imported together ({str(error).splitlines()[0]})"
        way_out = "install a pair of one release with `pip install --force-reinstall torch torchvision`"
        raise EnvironmentProblem(f"{told}: {way_out}") from None
