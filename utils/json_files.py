"""JSON files: what a user gets to read where one is missing, cut or cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write JSON into an existing folder; `UserError` where that is impossible."""
    try:
        path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output") from None
