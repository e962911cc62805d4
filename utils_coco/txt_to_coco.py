"""Annotation list -> COCO JSON, the inverse of coco_to_txt.py: image ids count the lines from 1.

python utils_coco/txt_to_coco.py --annotations coco_val_DAUB.txt --output val.json --data-root datasets/DAUB
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.annotation_files import write_coco
from utils.annotations import load_annotations
from utils.cli import Several, Unset, UserError, run_command
from utils.converted import refuse_source


@dataclass
class Config:
    """Convert an annotation list to a COCO JSON."""

    annotations: Path
    """The annotation list."""
    output: Path
    """The JSON to write."""
    data_root: Unset[Path] = None
    """Folder of the data set, for the sizes of the frames; without it the JSON says none."""
    strip_prefix: str = ""
    """What to take away in front of every path, as /home/public/DAUB/."""
    class_names: Several[str] = ()
    """Name of class 0, 1, ... (default: target, or class 0, class 1, ...)."""


def main(config: Config) -> None:
    """Read the list, write the JSON and say what it holds."""
    source, output = config.annotations, config.output
    if source.suffix.lower() == ".json":
        raise UserError(f"{source}: a JSON already; --annotations takes an annotation list")
    if output.suffix.lower() != ".json":
        raise UserError(f"{output}: --output must end in .json, which is how a COCO file is told from a list")
    known = config.data_root is not None
    root = config.data_root if config.data_root is not None else source.parent
    found = load_annotations(source, root, len(config.class_names) or None, check_files=known)
    folders = {record.path.parent for record in found.records}
    frames = (record.path for record in found.records if record.path.name == output.name)
    refuse_source(output, [source, *frames], folders if known else ())
    coco = found.coco
    for image in coco["images"]:
        image["file_name"] = _stripped(config, image["file_name"])
    for category, name in zip(coco["categories"], config.class_names, strict=False):
        category["name"] = name
    write_coco(output, coco)
    images, boxes = len(coco["images"]), len(coco["annotations"])
    empty = images - len({annotation["image_id"] for annotation in coco["annotations"]})
    sizes = "with the sizes of the frames" if known else "without sizes: give --data-root for them"
    print(f"wrote {output}: {images} frames, {boxes} boxes, {empty} frames without a box, {sizes}")


def _stripped(config: Config, name: str) -> str:
    if not name.startswith(config.strip_prefix):
        raise UserError(f"{config.annotations}: {name!r} does not begin with --strip-prefix {config.strip_prefix!r}")
    return name[len(config.strip_prefix) :]


if __name__ == "__main__":
    run_command(main, Config)
