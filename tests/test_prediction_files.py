"""The files of a prediction, whenever the writing stops."""

from __future__ import annotations

import json

import pytest

from utils.prediction_files import JsonList


def test_the_json_list_is_valid_after_every_step(tmp_path):
    path = tmp_path / "list.json"
    growing = JsonList(path)
    assert json.loads(path.read_text()) == []
    growing.extend([{"a": 1}, {"a": 2}])
    assert json.loads(path.read_text()) == [{"a": 1}, {"a": 2}]
    growing.extend([])

    def interrupted():
        yield {"a": 3}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        growing.extend(interrupted())
    growing.close()
    assert json.loads(path.read_text()) == [{"a": 1}, {"a": 2}, {"a": 3}]
