"""Ground truth beside the detections of one frame."""

from __future__ import annotations

import numpy as np

from utils.detector import Detections
from utils.overlay import match_frame


def test_a_frame_is_matched_by_centre_distance_and_class():
    detections = Detections(
        np.array([[10, 10, 18, 18], [50, 50, 58, 58], [81, 80, 89, 88]], np.float32), np.ones(3), np.array([0, 0, 1])
    )
    targets = np.array([[12, 11, 20, 19, 0], [50, 54, 58, 62, 0], [80, 80, 88, 88, 0]], np.float32)
    matches = match_frame(detections, targets)
    assert matches.target.tolist() == [0, -1, -1]  # 2.2 pixels off; 4 pixels off; another class
    assert matches.false_alarm.tolist() == [False, True, True]
    assert match_frame(detections, np.zeros((0, 5), np.float32)).false_alarm.all()
