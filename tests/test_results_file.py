"""Reading of COCO results files entry by entry: what a JSON parser reads, and the line of every fault."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation_cases import DETECTIONS, TARGETS, detection, ground_truth
from utils import results_file
from utils.cli import UserError
from utils.evaluation import evaluate
from utils.results_file import read_results


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 30), indent=st.sampled_from([None, 0, 2]), block=st.integers(1, 60), part=st.integers(1, 7)
)
def test_what_json_reads_is_read(tmp_path_factory, count: int, indent: int | None, block: int, part: int):
    rng = np.random.default_rng(count)
    rows = [detection(n, 1, *rng.uniform(0, 99, 4).tolist(), float(rng.uniform())) for n in range(count)]
    for row in rows[::3]:
        row["file_name"] = 'odd "name", {with} [brackets]\\n.png'
    path = tmp_path_factory.mktemp("results") / "found.json"
    path.write_text(json.dumps(rows, indent=indent) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results_file, "BLOCK", block)
        patch.setattr(results_file, "PART", part)
        table = read_results(path)
    assert table.image_ids.tolist() == [row["image_id"] for row in rows]
    assert table.boxes.tolist() == [row["bbox"] for row in rows]
    assert table.scores.tolist() == [row["score"] for row in rows]


def test_a_table_scores_as_the_list(tmp_path):
    path = tmp_path / "found.json"
    path.write_text(json.dumps(DETECTIONS))
    coco = ground_truth(TARGETS, 2)
    assert evaluate(coco, read_results(path)) == evaluate(coco, DETECTIONS)


def test_memory_is_that_of_the_arrays(tmp_path):
    path = tmp_path / "many.json"
    count = 120_000
    with path.open("w") as file:
        file.write("[" + ",".join(json.dumps(detection(n, 1, 1, 2, 3, 4, 0.5)) for n in range(count)) + "]")
    tracemalloc.start()
    table = read_results(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(table.scores) == count
    # 56 bytes a detection, twice while the parts are joined; and the one part that exists as dictionaries.
    assert peak < 2 * 56 * count + results_file.PART * 900 + 4 * results_file.BLOCK


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "found.json: not a COCO results file"),
        ("", "found.json: not a COCO results file"),
        ("[", r"found.json:1: detections is no valid JSON \(the list does not end\)"),
        ('[\n{"image_id": 1},\n', r"found.json:3: .*\(the list does not end\)"),
        ('[\n{"image_id": 1,,}\n]', "found.json:2: .*property name"),
        ('[\n{"a": 1}\n{"a": 2}]', r"found.json:3: .*expecting ',' or '\]'"),
        ("[]\n[]", "found.json:2: .*text behind the end"),
        ('[{"a": 1},]', "found.json:1: .*Expecting value"),
        ('[{"score": ' + "1" * 5000 + "}]", "found.json:1: .*4300 digits"),
        ("[1]", r"found.json: entry 0 \(from 0\) has no 'image_id'"),
    ],
)
def test_faults_are_named(tmp_path, text: str, message: str):
    path = tmp_path / "found.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_results(path)


def test_the_entry_of_a_fault_is_counted_over_the_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(results_file, "PART", 2)
    path = tmp_path / "found.json"
    path.write_text(json.dumps([*DETECTIONS[:3], {**DETECTIONS[3], "score": None}]))
    with pytest.raises(UserError, match=r"found.json: entry 3 \(from 0\): score is not a number: None"):
        read_results(path)
