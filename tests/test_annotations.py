"""Annotation lists and COCO JSON: what they give, that both give the same, and what each fault says."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.annotations import load_annotations, write_list
from utils.cli import UserError

# A loaded machine is no fault of the code.
UNHURRIED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def save_frames(root: Path, *names: str, size: tuple[int, int] = (40, 60)) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros(size, np.uint8)).save(root / name)


def load_text(folder: Path, text: str, **options):
    (folder / "list.txt").write_text(text, encoding="utf-8", newline="")
    return load_annotations(folder / "list.txt", folder, **{"check_files": False, **options})


def coco_file(folder: Path, **changes) -> Path:
    """A valid COCO file of two images and three boxes, with some keys replaced or (None) left out."""
    content = {
        "images": [
            {"id": 11, "file_name": "images/1/0.bmp", "height": 40, "width": 60},
            {"id": 7, "file_name": "images/1/1.bmp", "height": 40, "width": 60},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 5, "bbox": [1.9, 2.2, 8.8, 7], "area": 61.6, "iscrowd": 0},
            {"id": 2, "image_id": 11, "category_id": 3, "bbox": [10, 11, 4, 5], "area": 20, "iscrowd": 0},
            {"id": 3, "image_id": 7, "category_id": 3, "bbox": [52, 33, 8, 7], "area": 56, "iscrowd": 0},
        ],
        "categories": [{"id": 5, "name": "bird"}, {"id": 3, "name": "drone"}],
    }
    content.update(changes)
    path = folder / "instances.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def rows_of(annotations) -> list[tuple[str, list[list[int]]]]:
    return [(record.name, record.boxes.astype(int).tolist()) for record in annotations.records]


def test_list_of_known_lines(tmp_path):
    annotations = load_text(
        tmp_path,
        "\ufeffimages/1/0.bmp 1,2,3,4,0 5,6,17,18,1\r\n"  # a byte order mark and Windows line ends
        "\r\n"
        "images/1/1.bmp\r\n"
        "C:\\my data\\images\\1\\frame 2.BMP   7,8,9,10,0\r\n"
        "images/2 3/4,5.png\t7,8,9,10,0",
    )
    assert rows_of(annotations) == [
        ("images/1/0.bmp", [[1, 2, 3, 4, 0], [5, 6, 17, 18, 1]]),
        ("images/1/1.bmp", []),
        ("C:\\my data\\images\\1\\frame 2.BMP", [[7, 8, 9, 10, 0]]),
        ("images/2 3/4,5.png", [[7, 8, 9, 10, 0]]),
    ]
    assert [record.image_id for record in annotations.records] == [1, 2, 3, 4]
    assert annotations.class_names == ("class 0", "class 1")
    assert annotations.category_ids == (1, 2)
    assert annotations.records[1].boxes.shape == (0, 5)
    assert annotations.records[0].boxes.dtype == np.float32
    assert annotations.records[0].path == tmp_path / "images" / "1" / "0.bmp"
    with pytest.raises(ValueError, match="read-only"):
        annotations.records[0].boxes[0, 0] = 9


def test_coco_of_known_boxes(tmp_path):
    annotations = load_annotations(coco_file(tmp_path), tmp_path, check_files=False)
    assert rows_of(annotations) == [
        ("images/1/0.bmp", [[10, 11, 14, 16, 0]]),
        ("images/1/1.bmp", [[1, 2, 9, 9, 1], [52, 33, 60, 40, 0]]),  # whole pixels, rank of the category id
    ]
    assert [record.image_id for record in annotations.records] == [11, 7]
    assert (annotations.class_names, annotations.category_ids) == (("drone", "bird"), (3, 5))
    assert annotations.coco == json.loads((tmp_path / "instances.json").read_text())


def test_crowd_regions_are_no_targets(tmp_path):
    crowd = [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1}]
    annotations = load_annotations(coco_file(tmp_path, annotations=crowd), tmp_path, check_files=False)
    assert [len(record.boxes) for record in annotations.records] == [0, 0]
    assert annotations.coco["annotations"] == crowd


names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=12)
    .map(lambda text: f"images/{text}/0.bmp")
    .filter(lambda name: not any(set(word) <= set("0123456789.,+-") for word in name.split()[1:])),
    min_size=1,
    max_size=5,
    unique=True,
)
box = st.tuples(
    st.integers(0, 500), st.integers(0, 500), st.integers(1, 90), st.integers(1, 90), st.integers(0, 3)
).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3], b[4]])


@UNHURRIED
@given(names.flatmap(lambda chosen: st.tuples(*(st.tuples(st.just(n), st.lists(box, max_size=4)) for n in chosen))))
def test_written_lists_read_back(rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "list.txt")
        write_list(path, rows)
        assert rows_of(load_annotations(path, folder, 4, check_files=False)) == list(rows)
        assert [entry.name for entry in Path(folder).iterdir()] == ["list.txt"]


@UNHURRIED
@given(
    st.lists(st.lists(box, max_size=4), min_size=1, max_size=6),
    st.lists(st.integers(0, 90), min_size=4, max_size=4, unique=True),
)
def test_json_and_list_give_the_same(boxes_per_image, category_ids):
    ranked = sorted(category_ids)
    images = [{"id": 3 * i + 1, "file_name": f"a/{i}.bmp"} for i in range(len(boxes_per_image))]
    annotations = [
        {"image_id": 3 * i + 1, "category_id": ranked[k], "bbox": [x1 + 0.5, y1 + 0.25, x2 - x1, y2 - y1]}
        for i, boxes in enumerate(boxes_per_image)
        for x1, y1, x2, y2, k in boxes
    ]
    categories = [{"id": number, "name": f"n{number}"} for number in category_ids]
    with tempfile.TemporaryDirectory() as folder:
        path = coco_file(Path(folder), images=images, annotations=annotations, categories=categories)
        from_json = load_annotations(path, folder, check_files=False)
        write_list(Path(folder, "list.txt"), ((r.name, r.boxes) for r in from_json.records))
        from_list = load_annotations(Path(folder, "list.txt"), folder, 4, check_files=False)
    assert rows_of(from_list) == rows_of(from_json)
    assert rows_of(from_json) == [(f"a/{i}.bmp", boxes) for i, boxes in enumerate(boxes_per_image)]
    kinds = [[annotation["bbox"] for annotation in side.coco["annotations"]] for side in (from_list, from_json)]
    assert [[int(v) for v in bbox] for bbox in kinds[1]] == kinds[0]


def perfect_ap50(annotations) -> float:
    """AP50 of detections that are the ground truth itself."""
    truth = COCO()
    truth.dataset = annotations.coco
    truth.createIndex()
    results = [
        {key: entry[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for entry in annotations.coco["annotations"]
    ]
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[1]


def test_ground_truth_of_a_list_can_be_evaluated(tmp_path):
    annotations = load_text(tmp_path, "0.bmp 1,2,13,14,0\n1.bmp\n2.bmp 1,2,13,14,1 20,20,30,30,0\n")
    assert perfect_ap50(annotations) == pytest.approx(1)
    assert [image["id"] for image in annotations.coco["images"]] == [1, 2, 3]


@pytest.mark.parametrize("ids", [(0, 1), (4, 4), (None, None)])
def test_ground_truth_with_ids_that_pycocotools_mistakes(tmp_path, ids):
    boxes = [
        {"image_id": image, "category_id": 3, "bbox": [1, 2, 8, 7]} | ({} if number is None else {"id": number})
        for image, number in zip((7, 11), ids, strict=True)
    ]
    path = coco_file(tmp_path, annotations=boxes, categories=[{"id": 3, "name": "drone"}])
    assert perfect_ap50(load_annotations(path, tmp_path, check_files=False)) == pytest.approx(1)


@pytest.mark.parametrize(
    "line, message",
    [
        ("0.bmp 1,2,3,4", r"malformed box '1,2,3,4'; expected five whole numbers"),
        ("0.bmp 1,2,3,4,0 1,2,3,4,0,9", r"malformed box '1,2,3,4,0,9'"),
        ("0.bmp 1.5,2,3,4,0", r"malformed box '1\.5,2,3,4,0'"),
        ("0.bmp 1,2,x,4,0", r"malformed box '1,2,x,4,0'"),
        ("0.bmp 1 2 3 4 0", r"malformed box '1'"),
        ("0.bmp 1,2,3,4,0 person", r"malformed box 'person'"),
        ("1,2,3,4,0", r"no image path in '1,2,3,4,0'"),
        ("notes.txt 1,2,3,4,0", r"no image path"),
        ("0.bmp 30,2,20,4,0", r"box 30,2,20,4,0 is inverted or empty"),
        ("0.bmp 3,2,9,2,0", r"inverted or empty"),
        ("0.bmp 3,2,9,8,2", r"has class 2; expected 0 to 1"),
        ("0.bmp 3,2,9,8,-1", r"has class -1; expected 0 to 1"),
        ("0.bmp -3,2,9,8,0", r"reaches outside the image; correct or clip it"),
        ("9.bmp", r"stands there already .*list\.txt:1\); keep each frame once"),
    ],
)
def test_faults_of_a_list_name_the_line(tmp_path, line, message):
    with pytest.raises(UserError, match=rf"list\.txt:3: .*{message}"):
        load_text(tmp_path, f"9.bmp 1,2,3,4,0\n10.bmp\n{line}\n", num_classes=2)


def test_all_faults_are_counted(tmp_path):
    with pytest.raises(UserError, match=r"list\.txt:2: .*\(and 2 more such faults\)"):
        load_text(tmp_path, "0.bmp\n1.bmp 1,2\n2.bmp 9,9,9,9,0\n3.bmp 1\n")


def test_one_frame_under_two_names_is_a_duplicate(tmp_path):
    save_frames(tmp_path, "images/1/0.bmp")
    with pytest.raises(UserError, match=r"list\.txt:2: .*stands there already"):
        load_text(tmp_path, "images/1/0.bmp\n/home/other/images/1/0.bmp\n")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty_list(tmp_path, text):
    with pytest.raises(UserError, match=r"list\.txt: the list is empty"):
        load_text(tmp_path, text)


def test_class_without_a_bound_is_not_taken_for_a_class_count(tmp_path):
    with pytest.raises(UserError, match=r"list\.txt:1: .*has class 900000000; expected 0 to 999"):
        load_text(tmp_path, "0.bmp 1,2,3,4,900000000\n")


IMAGE = {"id": 11, "file_name": "0.bmp", "height": 40, "width": 60}
BOX = {"id": 4, "image_id": 7, "category_id": 3, "bbox": [1, 2, 8, 7]}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": None}, r"no list 'images'"),
        ({"annotations": {}}, r"no list 'annotations'"),
        ({"categories": None}, r"no list 'categories'"),
        ({"images": [], "annotations": []}, r"no images; expected at least one"),
        ({"categories": [], "annotations": []}, r"no categories"),
        ({"images": [{"id": 11}]}, r"images, id 11: expected 'file_name' of type str, got None"),
        ({"images": [IMAGE, "0.bmp"]}, r"images, entry 1 \(from 0\): expected 'id'"),
        ({"images": [IMAGE | {"id": "11"}]}, r"'id' of type int, got '11'"),
        ({"images": [IMAGE, IMAGE | {"file_name": "1.bmp"}]}, r"image id 11 stands there twice"),
        ({"images": [IMAGE, IMAGE | {"id": 7}]}, r"image id 7: 0\.bmp stands there already"),
        ({"images": [IMAGE | {"width": 0}, IMAGE | {"id": 7}]}, r"image id 11: height and width \(40, 0\)"),
        ({"images": [IMAGE | {"file_name": "0.txt"}, IMAGE | {"id": 7}]}, r"image id 11: '0\.txt' is no image"),
        ({"annotations": [BOX | {"image_id": 99}]}, r"annotation id 4: image id 99 is not among the images"),
        ({"annotations": [BOX | {"category_id": 9}]}, r"annotation id 4: category id 9 is not among"),
        ({"annotations": [BOX | {"bbox": [1, 2, 8]}]}, r"annotation id 4: bbox \[1, 2, 8\] of image id 7"),
        ({"annotations": [BOX | {"bbox": [1, 2, 8, float("nan")]}]}, r"annotation id 4: bbox .*four numbers"),
        ({"annotations": [{"id": 4, "image_id": 7}]}, r"annotations, id 4: expected 'category_id'"),
        ({"annotations": [BOX | {"bbox": [1, 2, -8, 7]}]}, r"image id 7: box 1,2,-7,9,0 is inverted or empty"),
        ({"annotations": [BOX | {"bbox": [1, 2, 0.9, 7]}]}, r"image id 7: .*inverted or empty"),
        ({"annotations": [BOX | {"bbox": [53, 2, 8, 7]}]}, r"image id 7: .*outside the image of 60 x 40 pixels"),
        ({"annotations": [BOX | {"area": None}]}, r"annotation id 4: area None; expected a number"),
        ({"annotations": [BOX | {"iscrowd": "0"}]}, r"annotation id 4: iscrowd '0'; expected 0 or 1"),
        ({"categories": [{"id": 3}, {"id": 3}], "annotations": []}, r"category id 3 stands there twice"),
    ],
)
def test_faults_of_a_json_name_the_entry(tmp_path, changes, message):
    with pytest.raises(UserError, match=rf"instances\.json: .*{message}") as failure:
        load_annotations(coco_file(tmp_path, **changes), tmp_path, check_files=False)
    assert "\n" not in str(failure.value)


def test_files_that_are_no_annotations(tmp_path):
    for name, content, message in [
        ("broken.json", b'{"images": [\n1,,]}', r"broken\.json:2: COCO JSON is no valid JSON"),
        ("list.json", b"[1, 2]", r"list\.json: not COCO"),
        ("binary.txt", b"\xff\xfe\x00\x9c", r"binary\.txt: not a text file"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_annotations(tmp_path / name, tmp_path)
    with pytest.raises(UserError, match=r"absent\.txt: cannot read the annotations"):
        load_annotations(tmp_path / "absent.txt", tmp_path)


def test_more_categories_than_the_network_has(tmp_path):
    with pytest.raises(UserError, match="2 categories; expected at most 1"):
        load_annotations(coco_file(tmp_path), tmp_path, num_classes=1, check_files=False)


def test_missing_frames_are_one_line(tmp_path):
    save_frames(tmp_path, "images/1/0.bmp", "images/1/2.bmp")
    text = "".join(f"/home/public/D/images/{folder}/{i}.bmp\n" for folder in (1, 2) for i in range(3))
    with pytest.raises(UserError, match=r"list\.txt:2: 4 of 6 frames are missing, the first is .*1\.bmp") as failure:
        load_text(tmp_path, text, check_files=True)
    assert f"--data-root (now {tmp_path})" in str(failure.value)
    with pytest.raises(UserError, match=r"image id 7: 1 of 2 frames are missing"):
        load_annotations(coco_file(tmp_path), tmp_path)


def test_data_root_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="absent: no such folder; .*--data-root"):
        load_annotations(coco_file(tmp_path), tmp_path / "absent")


def test_list_learns_sizes_from_headers(tmp_path):
    save_frames(tmp_path, "images/1/0.bmp", "images/1/1.bmp")
    save_frames(tmp_path, "images/2/0.bmp", size=(200, 300))
    text = "images/1/0.bmp 50,30,60,40,0\nimages/1/1.bmp\nimages/2/0.bmp 250,150,260,160,0\n"
    annotations = load_text(tmp_path, text, check_files=True)
    sizes = [(image["height"], image["width"]) for image in annotations.coco["images"]]
    assert sizes == [(40, 60), (40, 60), (200, 300)]
    with pytest.raises(UserError, match=r"list\.txt:1: box 50,30,61,40,0 .*outside the image of 60 x 40 pixels"):
        load_text(tmp_path, text.replace("60,40", "61,40"), check_files=True)
    bare = [{"id": 1, "file_name": "images/1/0.bmp"}, {"id": 2, "file_name": "images/2/0.bmp"}]
    coco = {"images": bare, "annotations": [], "categories": [{"id": 1, "name": "target"}]}
    (tmp_path / "bare.json").write_text(json.dumps(coco))
    images = load_annotations(tmp_path / "bare.json", tmp_path).coco["images"]
    assert [(image["height"], image["width"]) for image in images] == [(40, 60), (200, 300)]
    (tmp_path / "images/1/1.bmp").write_bytes(b"")
    with pytest.raises(UserError, match=r"list\.txt:2: .*images/1/1\.bmp: truncated or broken image"):
        load_text(tmp_path, text, check_files=True)


def test_frames_beside_annotated_ones_are_checked_too(tmp_path):
    """Clips reach back to them, in the middle of a training."""
    save_frames(tmp_path, "images/1/0.bmp", "images/1/1.bmp", "images/2/0.bmp")
    text = "images/1/1.bmp\nimages/2/0.bmp\n"
    assert len(load_text(tmp_path, text, check_files=True, check_beside=True).records) == 2
    save_frames(tmp_path, "images/1/0.bmp", size=(20, 30))
    with pytest.raises(UserError, match=r"list\.txt:1: sequence .*images/1: .*0\.bmp has 30 x 20 pixels .*to one size"):
        load_text(tmp_path, text, check_files=True, check_beside=True)
    (tmp_path / "images/1/0.bmp").write_bytes(b"")
    with pytest.raises(UserError, match=r"list\.txt:1: sequence .*images/1: .*0\.bmp: truncated or broken image"):
        load_text(tmp_path, text, check_files=True, check_beside=True)


@pytest.mark.parametrize("name", ["a/0.txt", "two\nlines.bmp", " 0.bmp", "a 1,2 b/0.bmp", ""])
def test_names_that_a_list_cannot_hold(tmp_path, name):
    with pytest.raises(UserError, match="cannot stand in an annotation list"):
        write_list(tmp_path / "list.txt", [("0.bmp", []), (name, [])])
    assert list(tmp_path.iterdir()) == []


def test_lists_replace_old_ones_but_no_protected_ones(tmp_path):
    path = tmp_path / "list.txt"
    write_list(path, [("0.bmp", [[1, 2, 3, 4, 0]])])
    write_list(path, [("1.bmp", [])])
    assert path.read_bytes() == b"1.bmp\n"
    path.chmod(0o444)
    with pytest.raises(UserError, match=r"list\.txt: write-protected"):
        write_list(path, [("2.bmp", [])])
    assert path.read_bytes() == b"1.bmp\n"
    with pytest.raises(UserError, match="cannot be written"):
        write_list(tmp_path / "absent" / "list.txt", [])
