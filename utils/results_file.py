"""COCO results files of any size: read entry by entry into arrays.

56 bytes a detection stay in memory, where a list of dictionaries takes about 700.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from utils.cli import UserError
from utils.evaluation_input import FileResults, tabulate

BLOCK = 1 << 22  # characters read at a time
PART = 50_000  # entries that exist as dictionaries at a time
LONGEST_ENTRY = 1 << 20  # characters; one that goes on longer is broken
BLANK = " \t\r\n"


def read_results(path: str | Path) -> FileResults:
    """The detections of a COCO results file; `UserError` naming the file and the faulty line or entry."""
    path = Path(path)
    tables, count = [tabulate([])], 0
    entries = _entries(path)
    while part := list(islice(entries, PART)):
        tables.append(tabulate(part, str(path), first=count))
        count += len(part)
    fields = ("image_ids", "category_ids", "boxes", "scores")
    return FileResults(*(np.concatenate([getattr(table, field) for table in tables]) for field in fields))


def _entries(path: Path) -> Iterator[Any]:
    """The entries of a JSON list, one after another."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Reader(path, file).entries()
    except OSError as error:
        raise UserError(f"{path}: detections cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: detections is not a text file; unpack it if it is compressed") from None


class _Reader:
    """The text of a JSON list that is read block by block; what has been parsed is dropped."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self.file = file
        self.text = ""
        self.at = 0  # in `text`
        self.line = 1  # of the start of `text`

    def entries(self) -> Iterator[Any]:
        if self._next() != "[":
            raise UserError(f"{self.path}: not a COCO results file (a list of detections expected)")
        self.at += 1
        if self._next() == "]":
            self.at += 1
            return self._end()
        decode = json.JSONDecoder().raw_decode
        while True:
            if self._next() == "":
                raise self._fault("the list does not end")
            yield self._decode(decode)
            following = self._next()
            self.at += 1
            if following == "]":
                return self._end()
            if following != ",":
                self.at -= 1
                raise self._fault("expecting ',' or ']' behind an entry")

    def _decode(self, decode: Any) -> Any:
        """The entry that starts here; more text is read where it is not whole."""
        while True:
            try:
                entry, self.at = decode(self.text, self.at)
                return entry
            except RecursionError:
                raise self._fault("lists in lists in lists, too many to read") from None
            except json.JSONDecodeError as error:
                if len(self.text) - self.at > LONGEST_ENTRY or not self._more():
                    self.at = min(error.pos, len(self.text))
                    raise self._fault(error.msg) from None
            except ValueError as error:  # a number of thousands of digits
                raise self._fault(str(error)) from None

    def _next(self) -> str:
        """Go to the next character that is not blank; "" at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in BLANK:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Read another block, dropping what lies behind; whether there was one."""
        block = self.file.read(BLOCK)
        if block:
            self.line += self.text.count("\n", 0, self.at)
            self.text, self.at = self.text[self.at :] + block, 0
        return bool(block)

    def _end(self) -> None:
        if self._next() != "":
            raise self._fault("text behind the end of the list")

    def _fault(self, reason: str) -> UserError:
        line = self.line + self.text.count("\n", 0, self.at)
        return UserError(f"{self.path}:{line}: detections is no valid JSON ({reason}); write it again")
