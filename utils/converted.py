"""What the converters share: a COCO file as it grows, and output folders that are nobody's source."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.annotation_files import write_coco
from utils.cli import UserError
from utils.frames import is_image_name, natural_key, refuse_twins


@dataclass
class CocoBuilder:
    """A COCO ground truth, of one category unless `names` has more; ids count from 1."""

    names: Sequence[str] = ("target",)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, name: str, size: tuple[int, int], boxes: Sequence[Sequence[float]], classes: Sequence[int] | None = None
    ) -> None:
        """Add an image of a size (h, w) with its boxes x, y, w, h and their classes from 0 (default: all 0)."""
        self.images.append({"id": len(self.images) + 1, "file_name": name, "height": size[0], "width": size[1]})
        for box, rank in zip(boxes, [0] * len(boxes) if classes is None else classes, strict=True):
            link = {"id": len(self.annotations) + 1, "image_id": len(self.images), "category_id": rank + 1}
            self.annotations.append({**link, "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0})

    def content(self) -> dict[str, Any]:
        """The JSON's content."""
        categories = [{"id": n, "name": name, "supercategory": "none"} for n, name in enumerate(self.names, start=1)]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}

    def write(self, output: Path, left_out: Mapping[str, int]) -> None:
        """Write the JSON, and say what it holds and what was left out; `UserError` where it cannot be written."""
        write_coco(output, self.content())
        empty = len(self.images) - len({annotation["image_id"] for annotation in self.annotations})
        said = [f"{len(self.images)} frames, {len(self.annotations)} boxes, {empty} frames without a box"]
        said += [f"left out {count} {what}" for what, count in left_out.items() if count]
        print(f"wrote {output}: {'; '.join(said)}")


def image_folder(data_root: Path, images: Path) -> Path:
    """The folder of the images, spelled below the data root, which the JSON's paths are relative to; or `UserError`."""
    folder = data_root / images
    if images.is_absolute() and folder.resolve().is_relative_to(data_root.resolve()):
        folder = data_root / folder.resolve().relative_to(data_root.resolve())
    if not folder.is_relative_to(data_root):
        raise UserError(f"{folder}: not below --data-root {data_root}, which the JSON's paths are relative to")
    return folder


def image_files(folder: Path) -> list[Path]:
    """All images in a folder and below, in natural order; `UserError` where there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check --data-root and the flags of the folders")
    walk = os.walk(folder, followlinks=True)
    found = [Path(place, name) for place, _, names in walk for name in names if is_image_name(name)]
    if not found:
        raise UserError(f"{folder}: no image in this folder or below; check --data-root and the flags of the folders")
    refuse_twins(found)
    return sorted(found, key=lambda path: natural_key(path.as_posix()))


def refuse_source(output: Path, files: Iterable[Path] = (), folders: Iterable[Path] = ()) -> None:
    """`UserError` where an output is a source file, or lies in a source folder, or has one in it."""
    place = output.resolve()
    for source in files:
        if source.resolve() == place:
            raise UserError(f"{output}: is a source, which is never written to; give another --output")
    for folder in folders:
        source = folder.resolve()
        if place.is_relative_to(source) or source.is_relative_to(place):
            how = "lies in" if place.is_relative_to(source) else "holds"
            raise UserError(f"{output}: {how} the source {folder}, which is never written to; give another --output")


def write_frame(image: np.ndarray, path: Path) -> None:
    """Write a frame (h, w) as an image file, in a folder that is made; `UserError` where it does not become whole."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, format=Image.registered_extensions()[path.suffix])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.getvalue())  # Pillow itself overlooks a write that a full disk cut short
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room, or give another --output") from None


def new_folder(output: Path, *sources: Path) -> None:
    """Make an empty output folder that is no source and lies in no source folder; `UserError` otherwise."""
    refuse_source(output, files=sources, folders=[source for source in sources if source.is_dir()])
    try:
        if output.exists() and any(output.iterdir()):
            raise UserError(f"{output}: folder is not empty; give another --output")
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output}: cannot be made or written ({error.strerror}); give another --output") from None
