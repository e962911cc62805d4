"""Files of tensors: read without running their code, written whole or not at all."""

from __future__ import annotations

import copy
import io
import os
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.cli import UserError


class DamagedFile(UserError):
    """A file that can be read and is no weight file, or not a whole one."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file with `weights_only=True`; UserError where it is missing, damaged or more than data."""
    try:
        with warnings.catch_warnings():  # of another pickle protocol: the file loads or it does not
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
        _verify(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a weight file (see model_data/README.md)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # the unpickler takes any bytes and fails on them in any way
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            raise UserError(f"{path}: memory is too short to read it; end other programs") from None
        raise DamagedFile(
            f"{path}: not a weight file, or a damaged one, or one that holds more than tensors and plain values; "
            "give a .pth file of this project or a release (see model_data/README.md)"
        ) from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


def _verify(path: str | Path) -> None:
    """Compare the checksums inside a file, which torch.load does not; ValueError where one is wrong."""
    if zipfile.is_zipfile(path):  # older files are plain pickles, without checksums
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"wrong checksum of {damaged}")


def refuse_folder(path: Path) -> None:
    """`UserError` where the weight file that is to be written is a folder."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it, such as {path / 'weights.pth'}")


def save_atomically(content: dict[str, Any], path: str | Path, keep_as: Path | None = None) -> None:
    """Write to a temporary file, flush it to disk, rename: whoever reads sees the old file or the new one, whole.

    keep_as: what the older file is renamed to, when the new one is down and before it takes the name.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    memory = io.BytesIO()  # what fails while writing is then the disk, with its own words for it
    torch.save(_on_cpu(content), memory)
    try:
        with open(temporary, "wb") as file:
            file.write(memory.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if keep_as is not None and path.exists():
            os.replace(path, keep_as)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # the folder itself may be what cannot be written
            temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); the older file, if any, is untouched") from error


def _on_cpu(content: Any) -> Any:
    """The same with all tensors on the CPU, so that a machine without this GPU can load the file by itself."""
    if isinstance(content, Tensor):
        return content.cpu()
    if isinstance(content, dict):
        moved = copy.copy(content)  # of a state_dict with what it says of its modules' versions
        moved.update((key, _on_cpu(value)) for key, value in content.items())
        return moved
    if isinstance(content, (list, tuple)):
        return type(content)(map(_on_cpu, content))
    return content


def _sync_folder(folder: Path) -> None:
    """Put a folder's renames on the disk, where the system knows how."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
