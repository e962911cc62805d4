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
