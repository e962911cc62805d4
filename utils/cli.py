"""Command lines: one way to parse a configuration and one way to fail."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Annotated, NoReturn, TypeVar

import tyro

from utils.heap import is_out_of_memory, keep_freed_memory

Config = TypeVar("Config")
Value = TypeVar("Value")
Unset = Annotated[Value | None, tyro.conf.arg(help_behavior_hint="")]  # a flag whose text says what stands for None
Several = Annotated[tuple[Value, ...], tyro.conf.arg(help_behavior_hint="")]  # the same, of an empty list

MAX_ERROR_LENGTH = 600  # characters of an error line; of a longer one the middle is left out
SIZES = ("batch_size", "chunk", "input_size", "workers")  # settings that memory grows with
RULE = re.compile(r"[\s│─╭╮╰╯-]*")  # a line of tyro's message without words


class UserError(Exception):
    """Bad input that the user can mend: one line that names the file, what is wrong and the remedy."""


def as_text(name: str) -> str:
    """A name that can be written anywhere: of a file whose name is no text with \\udc.. for what is none."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def parse_config(config_type: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Fill a configuration dataclass from the command line; a bad flag raises `UserError`."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(config_type, args=argv, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(f"{unbox(stderr.getvalue())}; {os.path.basename(sys.argv[0])} --help lists all flags") from None


def unbox(message: str) -> str:
    """What tyro says of a bad command line, in a line: without its box, the title and the help texts of flags."""
    sections: list[list[str]] = [[]]
    message = re.sub(r"\[/?bold\]", "", message)  # markup that tyro leaves in some of its lines
    for line in message.splitlines()[1:]:  # the first line is the title, which the text repeats
        if RULE.fullmatch(line):
            sections.append([])
        else:
            sections[-1].append(line[2:].rstrip(" │"))
    kept = []
    for lines in sections:
        if lines and not lines[0].startswith(("For full helptext", "Argument helptext")):
            flags = [line for line in lines if not line.startswith(" " * 8)]  # deeper are the help texts
            kept.append(" ".join(" ".join(flags).split()).removesuffix("."))
    return "; ".join(kept) or " ".join(message.split()) or "the command line cannot be read"


def error_line(message: str) -> str:
    """A message as one line of bearable length; its start names the file and its end the remedy."""
    line = " ".join(message.split())
    if len(line) > MAX_ERROR_LENGTH:
        part = MAX_ERROR_LENGTH // 2 - 3
        line = f"{line[:part]} ... {line[-part:]}"
    return line


def run_command(
    main: Callable[[Config], int | None], config_type: type[Config], argv: Sequence[str] | None = None
) -> NoReturn:
    """Parse, run `main(config)` and exit: 0 or main's own status, 2 after `error: ...`, 130 after Ctrl-C."""
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        status = main(parse_config(config_type, argv))
        sys.stdout.flush()
    except UserError as error:
        _say_error(str(error))
        status = 2
    except BrokenProcessPool:
        _say_error("a worker process was ended from outside, most often for want of memory; lower --workers")
        status = 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = error_line(str(error).splitlines()[0] if str(error) else type(error).__name__)
        size = [f"--{name.replace('_', '-')}" for name in SIZES if hasattr(config_type, name)]
        _say_error(f"out of memory ({reason}); {'lower ' + ' or '.join(size) if size else 'free some of it'}")
        status = 2
    except KeyboardInterrupt:
        print("stopped by the keyboard", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # the reader of our output has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the exit flushes once more
        status = 141  # as a shell says of a command that SIGPIPE ended
    except OSError as error:
        if error.filename is None:  # not of a file
            raise
        _say_error(f"{as_text(str(error.filename))}: {error.strerror}; check the path and who may read and write there")
        status = 2
    sys.exit(status or 0)


def _say_error(message: str) -> None:
    """The line of a failure."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()  # what was said before the error stands before it in a log of both
    print("error:", error_line(message), file=sys.stderr)
