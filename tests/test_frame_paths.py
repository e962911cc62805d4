"""Where an annotation file's names lie below the data root."""

from pathlib import Path

import pytest

from utils.annotations import load_annotations
from utils.cli import UserError
from utils.frame_paths import resolve_frames


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


@pytest.fixture
def data_root(tmp_path):
    root = tmp_path / "DAUB"
    touch(root / "images" / "test" / "data6" / "0.bmp")
    return root


def test_names_resolve_below_the_data_root(data_root):
    folder = data_root / "images" / "test" / "data6"
    names = [
        "images/test/data6/0.bmp",
        "./images/test/data6/1.bmp",  # absent, but beside one that exists
        "/home/public/DAUB/images/test/data6/0.bmp",
        "C:\\data\\DAUB\\images\\test\\data6\\0.bmp",
        "DAUB/images/test/data6/0.bmp",
        str(folder / "0.bmp"),
    ]
    expected = [folder / ("1.bmp" if "1.bmp" in name else "0.bmp") for name in names]
    assert resolve_frames(names, data_root) == expected


def test_absent_folder_is_expected_where_the_others_are(data_root):
    names = ["/home/public/DAUB/images/test/data9/0.bmp", "/home/public/DAUB/images/test/data6/0.bmp"]
    assert resolve_frames(names, data_root)[0] == data_root / "images" / "test" / "data9" / "0.bmp"


def test_one_missing_frame_does_not_hide_its_folder(data_root, tmp_path):
    elsewhere = touch(tmp_path / "elsewhere" / "s1" / "1.bmp").parent
    deeper = touch(data_root / "more" / "images" / "s2" / "1.bmp").parent
    names = [str(elsewhere / "0.bmp"), str(elsewhere / "1.bmp"), "/x/images/s2/0.bmp", "/x/images/s2/1.bmp"]
    expected = [folder / name for folder in (elsewhere, deeper) for name in ("0.bmp", "1.bmp")]
    assert resolve_frames(names, data_root) == expected


def test_a_relative_name_keeps_its_folders(tmp_path):
    """`test/1` is not the folder 1 of the data root `train`."""
    touch(tmp_path / "train" / "1" / "0.bmp")
    assert not resolve_frames(["test/1/0.bmp"], tmp_path / "train")[0].exists()
    found = resolve_frames(["train/1/0.bmp", "test/1/0.bmp"], tmp_path / "train")  # whatever the others lose
    assert [path.exists() for path in found] == [True, False]
    assert resolve_frames(["sets/Train/1/0.bmp"], tmp_path / "train") == [tmp_path / "train" / "1" / "0.bmp"]


@pytest.mark.parametrize("name", ["x" * 300 + "/0.bmp", "x" * 300 + ".bmp"])
def test_names_too_long_for_a_file_are_missing_frames(data_root, name):
    annotations = data_root / "list.txt"
    annotations.write_text(f"{name}\n")
    with pytest.raises(UserError, match="1 of 1 frames are missing"):
        load_annotations(annotations, data_root)


def test_longest_tail_wins(data_root):
    decoy = touch(data_root / "data6" / "0.bmp")
    found = resolve_frames(["/x/images/test/data6/0.bmp", "/x/data6/0.bmp"], data_root)
    assert found == [data_root / "images" / "test" / "data6" / "0.bmp", decoy]


def test_windows_paths_and_spaces(tmp_path):
    frame = touch(tmp_path / "my sequences" / "cam 1" / "frame 2.bmp")
    names = ["D:\\old disk\\my sequences\\cam 1\\frame 2.bmp", "my sequences\\cam 1\\frame 2.bmp"]
    assert resolve_frames(names, tmp_path) == [frame, frame]


def test_the_folder_above_the_data_set_will_do(data_root):
    expected = data_root / "images" / "test" / "data6" / "0.bmp"
    names = ["/home/public/DAUB_old/images/test/data6/0.bmp", "images/test/data6/0.bmp"]
    assert resolve_frames(names[:1], data_root.parent) == [expected]
    assert resolve_frames(names[1:], data_root.parent) == [expected]


def test_a_name_that_fits_two_folders_shows_both(tmp_path):
    first, second = (touch(tmp_path / copy / "images" / "6" / "0.bmp") for copy in ("a", "b"))
    (tmp_path / "list.txt").write_text("/home/public/IRDST/images/6/0.bmp 1,2,3,4,0\n")
    with pytest.raises(UserError, match=r"list\.txt:1: .*--data-root") as failure:
        load_annotations(tmp_path / "list.txt", tmp_path)
    assert str(first) in str(failure.value) and str(second) in str(failure.value)
    longer = touch(tmp_path / "b" / "IRDST" / "images" / "6" / "0.bmp")
    assert resolve_frames(["/home/public/IRDST/images/6/0.bmp"], tmp_path) == [longer]


def test_masks_are_not_taken_for_images(tmp_path):
    touch(tmp_path / "IRDST" / "masks" / "6" / "0.bmp")
    assert resolve_frames(["/home/public/IRDST/images/6/0.bmp"], tmp_path) == [
        tmp_path / "home" / "public" / "IRDST" / "images" / "6" / "0.bmp"
    ]
