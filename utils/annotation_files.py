"""The two annotation file formats: rows of an annotation list, and images with boxes of a COCO JSON.

An annotation list holds one frame a line, `path x1,y1,x2,y2,class x1,y1,x2,y2,class ...`: whole pixels,
classes from 0; a path alone is a frame without targets. In COCO JSON a box is x1 = int(x), x2 = x1 + int(w),
and its class the rank of the category id. Faults of a file are gathered, so that one reading finds all.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.cli import UserError
from utils.frames import is_image_name
from utils.json_files import read_json, whole_file, write_json

Box = tuple[int, int, int, int, int]  # x1, y1, x2, y2, class

# The first field after the path that is made of digits and commas, as a box is; file names may hold spaces.
BOX_START = re.compile(r"\s(?=[-+.\d]*,[-+.,\d]*(?:\s|$))")
BOX = re.compile(r"-?\d+,-?\d+,-?\d+,-?\d+,-?\d+")
MAX_CLASSES = 1000  # of a list whose number of classes nobody says


@dataclass
class FileRow:
    """One frame as the file says it; `where` names the place in the file for messages."""

    where: str
    image_id: int
    name: str
    boxes: list[Box]
    size: tuple[int, int] | None = None  # (h, w)


@dataclass
class ParsedFile:
    """The content of an annotation file; `coco` is None for a list."""

    rows: list[FileRow]
    categories: list[tuple[int, str]]  # id and name of class 0, 1, ...; empty for a list
    coco: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)  # what is read all the same, in another way than it is written


def write_list(path: str | os.PathLike, rows: Iterable[tuple[str, Iterable[Sequence[float]]]]) -> None:
    """Write (name, boxes x1, y1, x2, y2, class) rows as an annotation list, whole or not at all."""
    with whole_file(Path(path)) as file:
        for name, boxes in rows:
            if not _is_list_name(name):
                raise UserError(f"{name!r} cannot stand in an annotation list; rename the image file")
            fields = [",".join(str(int(value)) for value in box) for box in boxes]
            file.write(" ".join([name, *fields]) + "\n")


def write_coco(path: str | os.PathLike, coco: dict[str, Any]) -> None:
    """Write a COCO JSON, whole or not at all."""
    write_json(Path(path), coco, indent=None)


def _is_list_name(name: str) -> bool:
    """Whether reading a line gives this name back."""
    one_line = name == name.strip() and not {"\r", "\n"} & set(name)
    text = name == name.encode("utf-8", "replace").decode("utf-8")  # JSON can hold halves of a surrogate pair
    return one_line and text and is_image_name(name) and not BOX_START.search(name)


def raise_first(faults: list[str]) -> None:
    """Raise the first fault, if there is one, and say how many there are."""
    if faults:
        more = f" (and {len(faults) - 1} more such faults)" if len(faults) > 1 else ""
        raise UserError(faults[0] + more)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = f"cannot read the annotations ({error.strerror})"
    except UnicodeDecodeError:
        reason = "not a text file in UTF-8"
    raise UserError(f"{path}: {reason}; expected an annotation list or a COCO JSON")


def parse_list(path: Path, faults: list[str]) -> ParsedFile:
    """Lines of an annotation list; image ids count the frames from 1. Blank lines are skipped."""
    rows: list[FileRow] = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        line = line.strip()
        if not line:
            continue
        where = f"{path}:{number}"
        start = BOX_START.search(line)
        end = start.start() if start else len(line)
        name, fields = line[:end].rstrip(), line[end:].split()
        if is_image_name(name) and all(map(BOX.fullmatch, fields)):
            boxes = [tuple(int(value) for value in field.split(",")) for field in fields]
            rows.append(FileRow(where, len(rows) + 1, name, boxes))
        else:
            faults.append(f"{where}: {_line_fault(line)}")
    if not rows and not faults:
        faults.append(f"{path}: the list is empty; expected one `path x1,y1,x2,y2,class ...` a line")
    return ParsedFile(rows, categories=[])


def _line_fault(line: str) -> str:
    """What is wrong with a line: the first field after an image's name that is no box, or the name."""
    words = line.split()
    ends = [place for place, word in enumerate(words) if is_image_name(word)]
    for word in words[ends[0] + 1 :] if ends else []:
        if not BOX.fullmatch(word):
            return (
                f"malformed box {word!r}; expected five whole numbers x1,y1,x2,y2,class (of YOLO label files "
                "utils_coco/yolo_to_coco.py makes a COCO JSON)"
            )
    return f"no image path in {line[:80]!r}; expected `path x1,y1,x2,y2,class ...`"


def list_categories(rows: list[FileRow], num_classes: int | None) -> list[tuple[int, str]]:
    """Category ids 1, 2, ... for a list, which has no names: as many as asked for, or as its boxes use."""
    count = num_classes or max((box[4] + 1 for row in rows for box in row.boxes), default=1)
    if count <= 1:
        return [(1, "target")]
    return [(k + 1, f"class {k}") for k in range(min(count, num_classes or MAX_CLASSES))]


def parse_coco(path: Path, faults: list[str]) -> ParsedFile:
    """Images of a COCO file in its order, with their boxes; crowd regions are no targets.

    What is whole is returned beside the faults, so that the frames can be checked in the same run.
    """
    coco = _read_coco(path)
    classes = _entries(path, coco, "categories", {"id": int}, faults)
    categories = sorted({entry["id"]: str(entry.get("name", entry["id"])) for entry in classes}.items())
    images = _entries(path, coco, "images", {"id": int, "file_name": str}, faults)
    fields = {"image_id": int, "category_id": int, "bbox": list}
    annotations = _entries(path, coco, "annotations", fields, faults)
    if not faults and not (images and categories):
        faults.append(f"{path}: no {'images' if not images else 'categories'}; expected at least one")
    for kind, ids in (("image", [i["id"] for i in images]), ("category", [i["id"] for i in classes])):
        for repeated in sorted(number for number, count in Counter(ids).items() if count > 1):
            faults.append(f"{path}: {kind} id {repeated} stands there twice; each needs its own")
    rows = {image["id"]: _coco_row(path, image, faults) for image in images}
    ranks = {category_id: rank for rank, (category_id, _) in enumerate(categories)}
    for number, annotation in enumerate(annotations):
        _add_coco_box(path, number, annotation, rows, ranks, faults)
    notes = _coco_notes(path, annotations)
    return ParsedFile(list(rows.values()), categories, None if faults else _with_evaluation_keys(coco), notes)


def _coco_notes(path: Path, annotations: list[dict[str, Any]]) -> list[str]:
    """Annotation ids that stand there twice, and boxes that are cut to whole pixels."""
    ids = Counter(str(annotation["id"]) for annotation in annotations if "id" in annotation)
    notes = [
        f"{path}: annotation id {number} stands there {count} times; all are numbered anew, give each its own"
        for number, count in ids.items()
        if count > 1
    ]
    cut = [
        annotation
        for annotation in annotations
        if any(type(v) is float and math.isfinite(v) and v != int(v) for v in annotation["bbox"])
    ]
    if cut:
        first = f"annotation id {cut[0].get('id', 'none')}, bbox {cut[0]['bbox']}"
        notes.append(
            f"{path}: {len(cut)} boxes are not in whole pixels, the first is {first}; they are cut to whole pixels, "
            "as in the published lists"
        )
    return notes


def _read_coco(path: Path) -> dict[str, Any]:
    coco = read_json(path, "COCO JSON")
    if not isinstance(coco, dict):
        raise UserError(f"{path}: not COCO; expected the keys images, annotations and categories")
    return coco


def _entries(
    path: Path, coco: dict[str, Any], key: str, fields: dict[str, type], faults: list[str]
) -> list[dict[str, Any]]:
    """The list under `key`, less the entries without the needed fields, which become faults."""
    entries = coco.get(key)
    if not isinstance(entries, list):
        faults.append(f"{path}: no list {key!r}; expected a COCO file with images, annotations, categories")
        return []
    good = []
    for number, entry in enumerate(entries):
        entry = entry if isinstance(entry, dict) else {}
        lacking = [field for field, kind in fields.items() if type(entry.get(field)) is not kind]
        if lacking:
            label = f"id {entry['id']}" if "id" in entry else f"entry {number} (from 0)"
            expected = f"{lacking[0]!r} of type {fields[lacking[0]].__name__}"
            faults.append(f"{path}: {key}, {label}: expected {expected}, got {entry.get(lacking[0])!r}")
        else:
            good.append(entry)
    return good


def _coco_row(path: Path, image: dict[str, Any], faults: list[str]) -> FileRow:
    where = f"{path}: image id {image['id']}"
    size = (image.get("height"), image.get("width"))
    if size == (None, None):
        size = None
    elif not all(type(side) is int and side > 0 for side in size):
        faults.append(f"{where}: height and width {size}; expected whole numbers above 0, or neither")
        size = None
    if not is_image_name(image["file_name"]):
        faults.append(f"{where}: {image['file_name']!r} is no image path; expected one under the data root")
    return FileRow(where, image["id"], image["file_name"], [], size)


def _add_coco_box(
    path: Path,
    number: int,
    annotation: dict[str, Any],
    rows: dict[int, FileRow],
    ranks: dict[int, int],
    faults: list[str],
) -> None:
    """Add one annotation's box to its image's row."""
    where = f"{path}: annotation id {annotation.get('id', number)}"
    image_id, category_id, bbox = (annotation[key] for key in ("image_id", "category_id", "bbox"))
    row, rank = rows.get(image_id), ranks.get(category_id)
    if row is None:
        faults.append(f"{where}: image id {image_id} is not among the images; add the image or drop the box")
    elif rank is None:
        faults.append(f"{where}: category id {category_id} is not among the categories; add it")
    elif len(bbox) != 4 or not all(map(_is_number, bbox)):
        faults.append(f"{where}: bbox {bbox} of image id {row.image_id}; expected four numbers x, y, w, h")
    elif "area" in annotation and not _is_number(annotation["area"]):
        faults.append(f"{where}: area {annotation['area']!r}; expected a number of square pixels, or no area at all")
    elif annotation.get("iscrowd") not in (0, 1, None):
        faults.append(f"{where}: iscrowd {annotation['iscrowd']!r}; expected 0 or 1, or none at all")
    elif not annotation.get("iscrowd"):
        row.boxes.append(whole_pixel_box(bbox, rank))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def whole_pixel_box(bbox: Sequence[float], rank: int) -> Box:
    """COCO x, y, w, h and a class -> x1, y1, x2, y2, class in whole pixels, the release's way."""
    x, y, w, h = (int(value) for value in bbox)
    return x, y, x + w, y + h, rank


def _with_evaluation_keys(coco: dict[str, Any]) -> dict[str, Any]:
    """The file's content with the keys that pycocotools needs: area, iscrowd and annotation ids.

    Ids that are missing, repeated or 0 (which its matching takes for "no match") are numbered anew from 1.
    """
    annotations = coco["annotations"]
    ids = [annotation.get("id") for annotation in annotations]
    if 0 in ids or any(type(number) is not int for number in ids) or len(set(ids)) < len(ids):
        ids = range(1, len(annotations) + 1)
    annotations = [
        {"iscrowd": 0, "area": annotation["bbox"][2] * annotation["bbox"][3], **annotation, "id": number}
        for number, annotation in zip(ids, annotations, strict=True)
    ]
    return {**coco, "annotations": annotations}


def with_sizes(coco: dict[str, Any], rows: list[FileRow]) -> dict[str, Any]:
    """The file's content with the sizes of its images, where the rows know them."""
    known = {row.image_id: {"height": row.size[0], "width": row.size[1]} for row in rows if row.size}
    return {**coco, "images": [{**image, **known.get(image["id"], {})} for image in coco["images"]]}


def list_to_coco(rows: list[FileRow], categories: list[tuple[int, str]]) -> dict[str, Any]:
    """COCO ground truth of an annotation list: image ids 1..N in line order, whole-pixel boxes."""
    images = [
        {
            "id": row.image_id,
            "file_name": row.name,
            **({"height": row.size[0], "width": row.size[1]} if row.size else {}),
        }
        for row in rows
    ]
    boxes = [(row, box) for row in rows for box in row.boxes]
    annotations = [
        {
            "id": number,
            "image_id": row.image_id,
            "category_id": categories[rank][0],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }
        for number, (row, (x1, y1, x2, y2, rank)) in enumerate(boxes, start=1)
    ]
    return {"images": images, "annotations": annotations, "categories": category_entries(categories)}


def category_entries(categories: Iterable[tuple[int, str]]) -> list[dict[str, Any]]:
    """The categories of a COCO JSON from ids and names."""
    return [{"id": category_id, "name": name, "supercategory": "none"} for category_id, name in categories]
