"""Command lines: one way to parse a configuration and one way to fail."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import tyro

Config = TypeVar("Config")


class UserError(Exception):
    """Bad input that the user can mend: one line that names the file, what is wrong and the remedy."""


def parse_config(config_type: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Fill a configuration dataclass from the command line; a bad flag raises `UserError`."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(config_type, args=argv, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        words = re.sub(r"[─│╭╮╰╯┌┐└┘|]+", " ", stderr.getvalue())
        raise UserError(" ".join(words.split()) or "the command line could not be read; see --help") from None


def run_command(
    main: Callable[[Config], int | None], config_type: type[Config], argv: Sequence[str] | None = None
) -> NoReturn:
    """Parse, run `main(config)` and exit: 0 or main's own status, 2 after `error: ...`, 130 after Ctrl-C."""
    try:
        status = main(parse_config(config_type, argv))
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("stopped by the keyboard", file=sys.stderr)
        status = 130
    sys.exit(status or 0)
