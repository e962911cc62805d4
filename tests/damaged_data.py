"""A data set with one fault of every kind, and what the check has to say of each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

LENGTH = 24  # frames of a sequence
SIZE = (48, 64)


def moving_frames(seed: int, count: int = LENGTH, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Frames of a camera that drifts over a textured plain."""
    rng = np.random.default_rng(seed)
    height, width = size
    plain = gaussian_filter(rng.normal(0, 1, (height + 2 * count, width + 2 * count)), 6.0)
    plain = np.clip(128 + 40 * plain / plain.std(), 0, 255)
    noisy = plain[None].repeat(count, 0) + rng.normal(0, 1, (count, *plain.shape))
    frames = [noisy[k, 2 * k : 2 * k + height, 2 * k : 2 * k + width] for k in range(count)]
    return [np.clip(np.rint(frame), 0, 255).astype(np.uint8) for frame in frames]


def save_sequence(folder: Path, frames: list[np.ndarray], start: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, start):
        Image.fromarray(frame).save(folder / f"{number}.bmp")


# Lines of the training list and what must be said of them; None: a sound line.
LIST_LINES = [
    ("images/a/0.bmp 1,2,9,9,0", None),
    ("images/a/1.bmp 1,2,3,4", "malformed box '1,2,3,4'"),
    ("images/a/2.bmp 1,2,3,4,0,9", "malformed box '1,2,3,4,0,9'"),
    ("images/a/3.bmp 1.5,2,3,4,0", "malformed box '1.5,2,3,4,0'"),
    ("images/a/4.bmp 1,2,x,4,0", "malformed box '1,2,x,4,0'"),
    ("images/a/5.bmp 1 2 3 4 0", "malformed box '1'"),
    ("images/a/6.bmp 1,2,9,9,0 person", "malformed box 'person'"),
    ("1,2,9,9,0", "no image path"),
    ("images/a/notes.txt 1,2,9,9,0", "no image path"),
    ("images/a/._8.bmp 1,2,9,9,0", "no image path"),
    ("images/a/7.bmp 9,2,3,9,0", "inverted or empty"),
    ("images/a/8.bmp 3,9,9,9,0", "inverted or empty"),
    ("images/a/9.bmp 1,2,9,9,5", "has class 5; expected 0 to 0"),
    ("images/a/10.bmp 1,2,9,9,-1", "has class -1"),
    ("images/a/11.bmp -1,2,9,9,0", "reaches outside the image"),
    ("images/a/12.bmp 60,2,65,9,0", "reaches outside the image of 64 x 48 pixels"),
    ("images/a/13.bmp 1,40,9,49,0", "reaches outside the image of 64 x 48 pixels"),
    ("images/a/0.bmp 1,2,9,9,0", "stands there already"),
    ("/home/other/set/images/a/0.bmp 1,2,9,9,0", "stands there already"),
    ("images/a/14.bmp 1,2,9,9,0 1,2,9,9,0", "box 1,2,9,9,0 stands there 2 times"),
    ("images/a/15.bmp 0,0,50,40,0", "covers 65% of the image"),
    ("images/a/99.bmp 1,2,9,9,0", "no frame "),
    ("images/absent/0.bmp 1,2,9,9,0", "no folder "),
    ("images/empty/0.bmp 1,2,9,9,0", "images/empty/0.bmp: truncated or broken image"),
    ("images/text/0.bmp 1,2,9,9,0", "images/text/0.bmp: truncated or broken image"),
    ("images/dir/0.bmp 1,2,9,9,0", "images/dir/0.bmp: cannot be read"),
    ("images/short/0.bmp 1,2,9,9,0", "images/short/0.bmp: truncated or broken image"),
    ("images/dark/0.tif 1,2,9,9,0", "float grey values reach only 0.5; expected 0 to 255"),
    ("images/wide/0.tif 1,2,9,9,0", "grey values 0 to 300; expected 0 to 255"),
    ("images/mixed/0.bmp 1,2,9,9,0", None),
    ("images/mixed/1.bmp 1,2,9,9,0", "has 32 x 32 pixels (width x height), but images/mixed/0.bmp"),
    ("images/twins/2.bmp 1,2,9,9,0", "the same frame as 2.bmp"),
    ("/home/other/sets/images/b/0.bmp 1,2,9,9,0", "may be "),
    ("images/jump/0.bmp 1,2,9,9,0", "frame numbers jump, 1.bmp to 50.bmp"),
    ("images/loose/0.bmp 1,2,9,9,0", "images/loose/1.bmp: truncated or broken image"),
    ("images/loose2/0.bmp 1,2,9,9,0", "images/loose2/1.bmp has 32 x 32 pixels"),
    ("images/shuffled/0.bmp 1,2,9,9,0", "frames are out of temporal order"),
    ("images/blocks/0.bmp 1,2,9,9,0", "blocks of frames may be out of order"),
    ("images/copy/0.bmp 1,2,9,9,0", "frames are identical to frames of"),
    ("images/still/0.bmp 1,2,9,9,0", "3.bmp (1 in all) repeat the frame before"),
    ("images/both/0.bmp 1,2,9,9,0", None),
    ("images/bare/0.bmp", "images/bare/0.bmp and 0 more"),
]

IMAGE = {"height": SIZE[0], "width": SIZE[1]}
IMAGES = [
    {"id": 1, "file_name": "images/v/0.bmp", **IMAGE},
    {"id": 2, "file_name": "images/v/1.bmp", "height": 50, "width": 60},
    {"id": 3, **IMAGE},
    {"id": "4", "file_name": "images/v/3.bmp", **IMAGE},
    {"id": 1, "file_name": "images/v/4.bmp", **IMAGE},
    {"id": 5, "file_name": "images/v/5.bmp", "height": 0, "width": 64},
    {"id": 6, "file_name": "images/v/6.doc", **IMAGE},
    {"id": 7, "file_name": "images/both/0.bmp", **IMAGE},
    {"id": 8, "file_name": "images/leak/0.bmp", **IMAGE},
]
BOXES = [
    {"id": 1, "image_id": 99, "category_id": 1, "bbox": [1, 2, 8, 8]},
    {"id": 2, "image_id": 1, "category_id": 9, "bbox": [1, 2, 8, 8]},
    {"id": 3, "image_id": 1, "category_id": 1, "bbox": [1, 2, 8]},
    {"id": 4, "image_id": 1, "category_id": 1, "bbox": [1, 2, float("nan"), 8]},
    {"id": 5, "image_id": 1, "bbox": [1, 2, 8, 8]},
    {"id": 6, "image_id": 1, "category_id": 1, "bbox": [9, 2, -8, 8]},
    {"id": 7, "image_id": 1, "category_id": 1, "bbox": [60, 2, 8, 8]},
    {"id": 8, "image_id": 1, "category_id": 1, "bbox": [1.5, 2, 8.25, 8]},
    {"id": 8, "image_id": 7, "category_id": 1, "bbox": [1, 2, 8, 8]},
]
JSON_LINES = [
    "images, id 3: expected 'file_name'",
    "images, id 4: expected 'id' of type int, got '4'",
    "image id 1 stands there twice",
    "category id 1 stands there twice",
    "image id 5: height and width (0, 64)",
    "image id 6: 'images/v/6.doc' is no image path",
    "annotation id 1: image id 99 is not among the images",
    "annotation id 2: category id 9 is not among the categories",
    "annotation id 3: bbox [1, 2, 8] of image id 1",
    "annotation id 4: bbox [1, 2, nan, 8]",
    "annotations, id 5: expected 'category_id'",
    "box 9,2,1,10,0 is inverted or empty",
    "box 60,2,68,10,0 reaches outside",
    "1 boxes are not in whole pixels, the first is annotation id 8",
    "annotation id 8 stands there 2 times",
    "image id 2: says 60 x 50 pixels",
    "is in the training list too",
    "validation would score what was trained on",
]


def make_damaged_data(root: Path) -> tuple[Path, Path]:
    """Write the frames, the list and the JSON; returns the paths of the last two."""
    images = root / "images"
    save_sequence(images / "a", moving_frames(0))
    for number, name in enumerate(("mixed", "twins", "jump", "loose", "loose2", "both", "bare", "v"), start=1):
        save_sequence(images / name, moving_frames(number)[:8])
    small = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
    for folder in ("mixed", "loose2"):
        Image.fromarray(small).save(images / folder / "1.bmp")
    Image.open(images / "twins" / "2.bmp").save(images / "twins" / "2.png")
    (images / "loose" / "1.bmp").write_bytes(b"BM")
    for number in range(2, 8):
        (images / "jump" / f"{number}.bmp").unlink()
    save_sequence(images / "jump", moving_frames(20)[:3], start=50)
    for folder in ("empty", "text", "short"):
        save_sequence(images / folder, moving_frames(21 + len(folder))[:2])
    (images / "empty" / "0.bmp").write_bytes(b"")
    (images / "text" / "0.bmp").write_text("not an image")
    (images / "short" / "0.bmp").write_bytes((images / "short" / "0.bmp").read_bytes()[:-900])
    (images / "dir" / "0.bmp").mkdir(parents=True)
    save_sequence(images / "dir", moving_frames(30)[:2], start=1)
    for folder, values in (("dark", [[0, 0.5]]), ("wide", [[0, 300]])):
        (images / folder).mkdir()
        Image.fromarray(np.array(values, np.float32).repeat(16, 0).repeat(16, 1)).save(images / folder / "0.tif")
    for copy in ("one", "two"):
        save_sequence(root / copy / "images" / "b", moving_frames(31 + len(copy))[:1])
    shuffled = moving_frames(40)
    save_sequence(images / "shuffled", [shuffled[k] for k in np.random.default_rng(5).permutation(LENGTH)])
    blocks, order = moving_frames(41), np.arange(LENGTH).reshape(4, -1)[[0, 2, 1, 3]].ravel()
    save_sequence(images / "blocks", [blocks[k] for k in order])
    save_sequence(images / "copy", moving_frames(0)[4:10])
    still = moving_frames(42)[:6]
    save_sequence(images / "still", [*still[:3], still[2], *still[3:]])
    save_sequence(images / "leak", moving_frames(41)[:1])
    train, val = root / "train.txt", root / "val.json"
    train.write_text("".join(line + "\n" for line, _ in LIST_LINES))
    categories = [{"id": 1, "name": "target"}, {"id": 1, "name": "other"}]
    val.write_text(json.dumps({"images": IMAGES, "annotations": BOXES, "categories": categories}))
    return train, val
