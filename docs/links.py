"""Check what the documentation points at: files, headings, addresses, and names of the module."""

import dataclasses
import importlib
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat

PAGES = (
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/*.md",
    "data/**/README.md",
    "benchmarks/*.md",
    "tools/**/README.md",
    "notebooks/[0-9]*.ipynb",
)
FENCED = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
TARGETS = (
    re.compile(
        r"\]\(\s*<?([^()\s<>]*(?:\([^()\s]*\)[^()\s<>]*)*)>?(?:\s+[\"'][^\"']*[\"'])?\s*\)"
    ),  # [text](target)
    re.compile(r"^ {0,3}\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)", re.MULTILINE),  # [text]: target
    re.compile(r"<((?:https?|mailto|ftp):[^>\s]+)>"),
    re.compile(r"<(?:a|img)\s[^>]*?(?:href|src)=\"([^\"]*)\""),
)
NAME = re.compile(r"`(adavipro(?:\.\w+)+)")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
IDENTIFIER = re.compile(r"<\w+\s[^>]*?(?:id|name)=\"([^\"]+)\"")


def pages(top: Path) -> list[Path]:
    """Every page whose links are checked."""
    return sorted(
        {path for pattern in PAGES for path in top.glob(pattern) if ".ipynb_checkpoints" not in path.parts}
    )


def prose(path: Path) -> str:
    """A page's text without blocks of code."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        text = path.read_text()
    return FENCED.sub("", text)


def targets(text: str) -> list[str]:
    """Everything that prose links to, pictures included."""
    plain = CODE.sub("`code`", text)
    return [found for pattern in TARGETS for found in pattern.findall(plain)]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings as GitHub spells them, and those set by hand."""
    found: set[str] = set()
    for heading in HEADING.findall(text):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        plain = re.sub(r"(?<!\w)[*_]+|[*_]+(?!\w)|`|<[^>]+>", "", plain)
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        number, anchor = 0, slug
        while anchor in found:
            number += 1
            anchor = f"{slug}-{number}"
        found.add(anchor)
    return found | set(IDENTIFIER.findall(text))


def wrong_link(page: Path, target: str, top: Path) -> str | None:
    """What is wrong with a link, or None."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        address = urlsplit(target)
        good = (
            address.scheme == "https"
            and "." in (address.hostname or "")
            and not re.search(r"[\s\"<>]", target)
        )
        return None if good else "which is not an address that starts with https:// and names a host"
    file, _, anchor = unquote(target).partition("#")
    path = (page.parent / file).resolve() if file else page
    if file.startswith("/") or not path.is_relative_to(top.resolve()) or not path.exists():
        return "but there is no such file in the project"
    if not anchor:
        return None if file else "which is empty"
    if path.suffix == ".ipynb":
        return "but JupyterLab, GitHub and the site spell a notebook's anchors differently: link to the notebook itself"
    return None if anchor in anchors(prose(path)) else f"but {path.name} has no such heading"


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, _, rest = name.partition(".")
    found: object = importlib.import_module(module)
    for part in rest.split("."):
        module = f"{module}.{part}"
        if not hasattr(found, part) and hasattr(found, "__path__"):
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                return False
        if dataclasses.is_dataclass(found) and part in {f.name for f in dataclasses.fields(found)}:
            return True
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def check(top: Path) -> list[str]:
    """What is wrong with the links and names of every page."""
    findings = []
    for page in pages(top):
        text, name = prose(page), page.relative_to(top)
        wrong = {target: wrong_link(page, target, top) for target in targets(text)}
        findings += [f"{name} links to {target!r}, {why}" for target, why in wrong.items() if why]
        findings += [
            f"{name} names `{known}`, which is not in the module"
            for known in dict.fromkeys(NAME.findall(text))
            if not exists(known)
        ]
    return findings
