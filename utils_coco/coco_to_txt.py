"""COCO JSON -> annotation lists: `path x1,y1,x2,y2,class ...`, one image a line, in the order of the JSON.

Without flags the train and the test JSON of the data root are converted, with --annotations and
--output one file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.annotations import Annotations, load_annotations, write_list
from utils.cli import Unset, UserError, run_command
from utils.converted import refuse_source


@dataclass
class Config:
    """Convert COCO annotations to annotation lists."""

    data_root: Path = Path("datasets/DAUB")
    """Folder of the data set: its annotations/instances_{train,test}2017.json become coco_{train,val}_NAME.txt
    in it, NAME being the folder's own."""
    annotations: Unset[Path] = None
    """One COCO JSON to convert instead of the data root's two (needs --output)."""
    output: Unset[Path] = None
    """The list to write (needs --annotations)."""
    image_prefix: str = ""
    """Folder put before every image path, as in /home/public/DAUB/."""


def conversions(config: Config) -> list[tuple[Path, Path]]:
    """The (JSON, list) pairs that the configuration asks for."""
    if (config.annotations is None) != (config.output is None):
        raise UserError("--annotations and --output go together; give both, or neither for --data-root")
    if config.annotations is not None and config.output is not None:
        return [(config.annotations, config.output)]
    root = config.data_root
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; pass the folder of the data set with --data-root")
    name = root.resolve().name
    return [
        (root / "annotations" / f"instances_{split}2017.json", root / f"coco_{list_name}_{name}.txt")
        for split, list_name in (("train", "train"), ("test", "val"))
    ]


def write_annotation_list(annotations: Annotations, output: Path, image_prefix: str = "") -> None:
    """Write the frames of `annotations` as a list and say so; a prefix without a closing slash gets one."""
    if image_prefix and not image_prefix.endswith(("/", "\\")):
        image_prefix += "/"
    records = annotations.records
    write_list(output, ((image_prefix + record.name, record.boxes) for record in records))
    boxes = sum(len(record.boxes) for record in records)
    empty = sum(not len(record.boxes) for record in records)
    crowds = sum(bool(annotation.get("iscrowd")) for annotation in annotations.coco["annotations"])
    left_out = f"; left out {crowds} crowd regions, which a list cannot hold: they become background" if crowds else ""
    print(f"wrote {output}: {len(records)} frames, {boxes} boxes, {empty} frames without a box{left_out}")


def main(config: Config) -> None:
    """Read every JSON before the first list is written, so that a fault leaves nothing half done."""
    pairs = [
        (load_annotations(json_file, config.data_root, check_files=False), output)
        for json_file, output in conversions(config)
    ]
    for source, output in pairs:
        frames = (record.path for record in source.records if record.path.name == output.name)
        refuse_source(output, [*(found.source for found, _ in pairs), *frames])
    for source, output in pairs:
        for note in source.notes:
            print(f"note: {note}", file=sys.stderr)
        write_annotation_list(source, output, config.image_prefix)


if __name__ == "__main__":
    run_command(main, Config)
