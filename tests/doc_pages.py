"""The documentation as data: its pages, blocks of code, command lines, links, flags and places in the code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/*.md", "model_data/*.md", "tests/**/*.md")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PLACE = re.compile(r"`([\w/]+\.py):([A-Za-z_][\w.]*)`")
FILE = re.compile(r"`((?:[\w]+/)*[\w*]+\.py)`")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
ASSIGNMENT = re.compile(r'^\s*([A-Z]+)="(.*)"$', re.MULTILINE)
PROGRAMS = ("python", "torchrun", "pytest", "make", "pip")
PROGRAM = re.compile(r'(?:[A-Z_]+=[^\s"]+ )*(?:\.venv/bin/)?(?:python|torchrun|pytest|make|pip|[\w/]+\.py)\s')


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command line of a page; `words` as a shell splits it, without variables set before it."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def pages() -> dict[str, str]:
    """Every page of this repository by its path from the root."""
    paths = sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def section(text: str, title: str) -> str:
    """The part of a page under a heading of level 2."""
    _, found, rest = text.partition(f"\n## {title}\n")
    if not found:
        raise ValueError(f"no section {title!r}")
    return re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [Block(match[1], match[2]) for match in FENCE.finditer(text)]


def links(text: str) -> list[str]:
    """Where the links of a page lead."""
    return LINK.findall(FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """What a link to this page may have after its #."""
    titles = HEADING.findall(FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def places(text: str) -> list[tuple[str, str]]:
    """The places in the code that a page names: (file, dotted name)."""
    return [(match[1], match[2]) for match in PLACE.finditer(text)]


def files(text: str) -> set[str]:
    """The Python files that a page speaks of, `name.py` or `name*.py`."""
    return set(FILE.findall(FENCE.sub("", text)))


def flags(text: str) -> set[str]:
    """The flags that a page speaks of outside of whole command lines."""
    spans = [span for span in SPAN.findall(FENCE.sub("", text)) if not PROGRAM.match(span)]
    return {flag for span in spans for flag in FLAG.findall(span)}


def commands(page: str, text: str) -> Iterator[Command]:
    """The command lines of a page: in fenced and indented blocks, and in the text."""
    variables = dict(ASSIGNMENT.findall(text))
    for line in (*_shell_lines(text), *SPAN.findall(FENCE.sub("", text).replace("\\|", "|"))):
        if words := split_command(line, variables):
            yield Command(page, words)


def _shell_lines(text: str) -> Iterator[str]:
    fenced = [block.text for block in blocks(text) if block.language in ("", "sh", "bash")]
    indented = re.findall(r"^ {4,}(\S.*?(?:\\\n.*?)*)$", FENCE.sub("", text), re.MULTILINE)
    for block in (*fenced, *indented):
        yield from block.replace("\\\n", " ").splitlines()


def split_command(line: str, variables: dict[str, str]) -> tuple[str, ...]:
    """The words of a command line, its shell variables filled in; none if it is no command of this project."""
    for name, value in variables.items():
        line = re.sub(rf"\${name}\b", value, line)
    line = line.strip()
    if not PROGRAM.match(line) and line not in PROGRAMS:  # the bare name of a file is none
        return ()
    words = shlex.split(line.removesuffix("..."), comments=True)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    return (words[0].removeprefix(".venv/bin/"), *words[1:])
