"""The converter: known bytes, both ways to call it, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from utils.annotations import load_annotations
from utils.cli import UserError
from utils_coco.coco_to_txt import Config, main

SCRIPT = Path(__file__).resolve().parents[1] / "utils_coco" / "coco_to_txt.py"


def write_json(path: Path, split: str = "test") -> Path:
    """Three images, the second without a box; the boxes are not in the order of the images."""
    images = [{"id": n + 1, "file_name": f"images/{split}/data6/{n}.bmp", "height": 99, "width": 99} for n in range(3)]
    boxes = [(3, 2, [5.7, 6.2, 8, 8.9]), (1, 1, [96, 77, 3, 8]), (3, 1, [0, 1, 2, 3])]
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "bbox": bbox}
        for number, (image, category, bbox) in enumerate(boxes, start=1)
    ]
    categories = [{"id": 1, "name": "target"}, {"id": 2, "name": "decoy"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def lines(prefix: str, split: str = "test") -> bytes:
    folder = f"{prefix}images/{split}/data6"
    return f"{folder}/0.bmp 96,77,99,85,0\n{folder}/1.bmp\n{folder}/2.bmp 5,6,13,14,1 0,1,2,4,0\n".encode()


@pytest.mark.parametrize("prefix", ["", "/home/public/DAUB/", "/home/public/DAUB", "D:\\data\\"])
def test_one_file_becomes_known_bytes(tmp_path, capsys, prefix):
    source, output = write_json(tmp_path / "in.json"), tmp_path / "out.txt"
    main(Config(annotations=source, output=output, image_prefix=prefix))
    expected = prefix + "/" if prefix.endswith("B") else prefix
    assert output.read_bytes() == lines(expected)
    assert capsys.readouterr().out == f"wrote {output}: 3 frames, 3 boxes, 1 frames without a box\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "out.txt"]


@pytest.mark.parametrize("name", ["DAUB", "IRDST"])
def test_data_root_gives_both_lists(tmp_path, name):
    root = tmp_path / name
    for split in ("train", "test"):
        write_json(root / "annotations" / f"instances_{split}2017.json", split)
    main(Config(data_root=root))
    assert (root / f"coco_train_{name}.txt").read_bytes() == lines("", "train")
    assert (root / f"coco_val_{name}.txt").read_bytes() == lines("", "test")
    from_list = load_annotations(root / f"coco_val_{name}.txt", root, check_files=False)
    from_json = load_annotations(root / "annotations" / "instances_test2017.json", root, check_files=False)
    for one, other in zip(from_list.records, from_json.records, strict=True):
        assert (one.name, one.boxes.tolist()) == (other.name, other.boxes.tolist())


def test_a_fault_in_one_json_leaves_both_lists_unwritten(tmp_path):
    write_json(tmp_path / "annotations" / "instances_train2017.json")
    (tmp_path / "annotations" / "instances_test2017.json").write_text("{}")
    with pytest.raises(UserError, match=r"instances_test2017\.json: no list 'categories'"):
        main(Config(data_root=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["annotations"]


def test_flags_that_do_not_fit(tmp_path):
    source = write_json(tmp_path / "in.json")
    with pytest.raises(UserError, match="--annotations and --output go together"):
        main(Config(annotations=source))
    with pytest.raises(UserError, match="absent: no such folder.*--data-root"):
        main(Config(data_root=tmp_path / "absent"))


@pytest.mark.parametrize("call", [[str(SCRIPT)], ["-m", "utils_coco.coco_to_txt"]])
def test_command_line(tmp_path, call):
    source, output = write_json(tmp_path / "in.json"), tmp_path / "out.txt"
    flags = ["--annotations", str(source), "--output", str(output), "--image-prefix", "/x/"]
    folder = SCRIPT.parents[1] if call[0] == "-m" else tmp_path
    done = subprocess.run([sys.executable, *call, *flags], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"note: {source}: 1 boxes are not in whole pixels")
    assert output.read_bytes() == lines("/x/")
    source.write_text("[]")
    failed = subprocess.run([sys.executable, *call, *flags], cwd=folder, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.startswith(f"error: {source}: not COCO") and failed.stderr.count("\n") == 1
    assert output.read_bytes() == lines("/x/")  # the old list stays
