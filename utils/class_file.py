"""The file of class names, one a line, and whether annotations are of these classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.annotations import is_list
from utils.cli import UserError

ROOT = Path(__file__).resolve().parents[1]


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names, one a line. A relative path that is not there counts from the project's folder, as its own do."""
    if not path.is_absolute() and not path.is_file():
        path = next((own for own in [ROOT / path] if own.is_file()), path)
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); --classes takes a file of class names") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; --classes takes a file of class names") from None
    if not names:
        raise UserError(f"{path}: no class name in it; write one a line")
    return names


def class_fault(source: Path, names: Sequence[str], class_names: Sequence[str], class_file: Path) -> str | None:
    """What is wrong where an annotation file's categories are not the network's classes, or ranks mean others."""
    if len(names) != len(class_names):
        return (
            f"{source}: {len(names)} categories, but {class_file} names {len(class_names)} classes; pass the data "
            "set's own class file with --classes"
        )
    if not is_list(source) and len(class_names) > 1 and tuple(names) != tuple(class_names):
        return (
            f"{source}: its categories are {', '.join(names)}, but {class_file} says {', '.join(class_names)}; write "
            "the same names in the same order"
        )
    return None
