"""JSON files, and text files that are whole or not there, with one line where one cannot be read or written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from utils.cli import UserError


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file, named `what` in messages; `UserError` where it is missing or no JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {what} cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: {what} is not a text file in UTF-8; unpack it if it is compressed") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: {what} is no valid JSON ({error.msg}); write it again") from None
    except RecursionError:
        raise UserError(f"{path}: {what} is no valid JSON (lists in lists in lists); write it again") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: {what} cannot be read ({error}); write it again") from None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file to write, which takes its name when it is whole, or leaves nothing."""
    if path.exists() and not path.stat().st_mode & 0o222:  # renaming would get round the protection
        raise UserError(f"{path}: write-protected; remove it or write to another file")
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the name: a power cut must not leave an empty file in place of the old one
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); write to another folder or make room") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write JSON into an existing folder, whole or not at all; `UserError` where that is impossible."""
    with whole_file(path) as file:
        file.write(json.dumps(content, indent=indent) + "\n")
