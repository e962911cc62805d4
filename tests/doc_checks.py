"""What of the documentation can be checked without running it: links, places, equations, commands, flags.

Every check returns its faults, a line each.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from torch.distributed.run import get_args_parser

from tests.doc_pages import ROOT, Command, anchors, blocks, commands, files, flags, links, pages, places
from utils.cli import UserError, parse_config

EQUATION = re.compile(r"\b[Ee]q\. (\d\.\d+)")
FILE_BLOCK = re.compile(r"# (\w[\w/]*\.py)\n")  # the first line of a block that is a whole file
OTHERS_FLAGS = {"--help", "--nproc-per-node"}  # of tyro and of torchrun


def link_faults() -> list[str]:
    """Links inside this repository that lead nowhere."""
    texts, faults = pages(), []
    for page, text in texts.items():
        for link in links(text):
            if re.match(r"\w+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
            if not target.exists():
                faults.append(f"{page}: {link}: no such file")
            elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
                faults.append(f"{page}: {link}: no such heading")
    return faults


def place_faults() -> list[str]:
    """Places in the code that are not there, `file:name`."""
    return [
        f"{page}: {path}:{name}: no such place"
        for page, text in pages().items()
        for path, name in places(text)
        if name not in defined_lines(ROOT / path)
    ]


@cache
def defined_lines(path: Path) -> dict[str, range]:
    """The lines of the functions, classes and constants of a file; methods are called Class.method."""
    lines: dict[str, range] = {}
    nodes: list[tuple[str, ast.stmt]] = []
    if path.is_file():
        nodes = [("", node) for node in ast.parse(path.read_text(encoding="utf-8")).body]
    for prefix, node in nodes:  # grows while it is read
        if isinstance(node, ast.ClassDef):
            nodes += [(f"{prefix}{node.name}.", child) for child in node.body]
        found = [node.name] if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else []
        if isinstance(node, ast.Assign):
            found = [target.id for target in node.targets if isinstance(target, ast.Name)]
        lines |= {prefix + name: range(node.lineno, node.end_lineno + 1) for name in found}
    return lines


def equation_faults() -> list[str]:
    """Equations of docs/code_map.md without a line in the places that it names, and the other way round."""
    rows = re.finditer(r"^\| (\d\.\d+) \|.*$", pages()["docs/code_map.md"], re.MULTILINE)
    table = {row[1]: places(row[0]) for row in rows}
    code: dict[str, list[tuple[str, int]]] = {}  # file and line of each mark
    for folder in ("nets", "utils"):
        for path in sorted((ROOT / folder).glob("*.py")):
            for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                for number in EQUATION.findall(text):
                    code.setdefault(number, []).append((path.relative_to(ROOT).as_posix(), line))
    faults = [
        f"docs/code_map.md: eq. {number}: not marked in {path}:{name}"
        for number, named in table.items()
        for path, name in named
        if not _marked(code.get(number, []), path, name)
    ]
    return faults + [f"{code[number][0][0]}: eq. {number}: not in docs/code_map.md" for number in code.keys() - table]


def _marked(marks: list[tuple[str, int]], path: str, name: str) -> bool:
    """Whether one of the marks (file, line) is inside a place."""
    lines = defined_lines(ROOT / path).get(name, range(0))
    return any(file == path and line in lines for file, line in marks)


@cache
def config_of(path: Path) -> type | None:
    """The configuration that a command's file parses its flags into; None for a file that is no command."""
    text = path.read_text(encoding="utf-8")
    found = re.search(r"^    run_command\(\w+, (\w+)\)$", text, re.MULTILINE)
    if not found:
        return None
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return getattr(importlib.import_module(module), found[1])


def command_configs() -> dict[str, type]:
    """The configuration of every command of this repository, by its file."""
    files = sorted(path for pattern in ("*.py", "*/*.py") for path in ROOT.glob(pattern) if path.parts[-2][0] != ".")
    return {path.relative_to(ROOT).as_posix(): config for path in files if (config := config_of(path))}


def flags_of(config: type) -> set[str]:
    """The flags that a configuration gives a command."""
    names = [field.name.replace("_", "-") for field in fields(config)]
    return {f"--{name}" for name in names} | {f"--no-{name}" for name in names}


def file_faults() -> list[str]:
    """Python files that are not there, in the root or one folder below it, under the names that pages give them."""
    return [
        f"{page}: {name}: no such file"
        for page, text in pages().items()
        for name in sorted(files(text))
        if not any(ROOT.glob(name)) and not any(ROOT.glob(f"*/{name}"))
    ]


def flag_faults() -> list[str]:
    """Flags that no command has."""
    known = OTHERS_FLAGS.union(*map(flags_of, command_configs().values()))
    return [
        f"{page}: {flag}: no command has it" for page, text in pages().items() for flag in sorted(flags(text) - known)
    ]


def command_faults() -> list[str]:
    """Command lines whose script is not there or does not take their flags."""
    faults = []
    for page, text in pages().items():
        written = {found[1] for block in blocks(text) if (found := FILE_BLOCK.match(block.text))}
        for command in commands(page, text):
            if fault := command_fault(command, written):
                faults.append(f"{command}: {fault}")
    return faults


def command_fault(command: Command, written: set[str]) -> str | None:
    """What is wrong with a command line; `written` are the files that its page tells to write."""
    program, *arguments = command.words
    if not arguments:
        return None
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        unknown = [word for word in arguments if "=" not in word and word not in targets]
        return f"no target {unknown[0]} in the Makefile" if unknown else None
    if program == "pip":
        missing = [word for word in arguments if word.endswith(".txt") and not (ROOT / word).is_file()]
        return f"no file {missing[0]}" if missing else None
    if program == "torchrun":
        try:
            parsed = get_args_parser().parse_args(arguments)
        except SystemExit:  # it has printed what is wrong
            return "torchrun does not take these flags"
        program, arguments = "python", [parsed.training_script, *parsed.training_script_args]
    if program == "python":
        if arguments[0] == "-m" and not (ROOT / arguments[1].partition(".")[0]).is_dir():  # pytest, pip, venv, ...
            program, arguments = arguments[1], arguments[2:]
            if find_spec(program) is None:
                return f"no module {program}"
        elif arguments[0] == "-m":
            program, arguments = arguments[1].replace(".", "/") + ".py", arguments[2:]
        else:
            program, arguments = arguments[0], arguments[1:]
    if program == "pytest":
        missing = [word for word in arguments if word.endswith(".py") and not (ROOT / word).is_file()]
        return f"no file {missing[0]}" if missing else None
    if program in written or not program.endswith(".py"):
        return None
    return script_fault(program, arguments, whole=command.words[0] in ("python", "torchrun"))


def script_fault(script: str, arguments: list[str], whole: bool) -> str | None:
    """What is wrong with the flags of a command. Of `easy|hard` the first is tried; of a part of a command line, which
    may lack what must be there, the names are looked up."""
    if not (ROOT / script).is_file():
        return f"no file {script}"
    config = config_of(ROOT / script)
    if config is None:
        return f"{script} is no command"
    if not whole:
        unknown = [word for word in arguments if word.startswith("--") and word not in flags_of(config)]
        return f"{script} has no {unknown[0]}" if unknown else None
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            parse_config(config, [word.split("|")[0] for word in arguments])
    except UserError as error:
        return str(error)
    except SystemExit:  # --help
        return None
    return None
