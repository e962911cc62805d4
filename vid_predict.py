"""Detect in an image, a folder of frames, a glob of images or a video, and draw what was found.

python vid_predict.py --source video.mp4
python vid_predict.py --weights W --source datasets/DAUB/images/test/data6 --save frames \
    --annotations datasets/DAUB/annotations/instances_test2017.json
python vid_predict.py --weights W --source video.mp4 --track --min-track-length 5
"""

from __future__ import annotations

import signal
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, groupby, islice, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from utils.check_rows import note_of_levels
from utils.checkpoint import weights_or_default
from utils.cli import Unset, UserError, run_command
from utils.config import choose_device
from utils.detections import Detections, coco_results
from utils.detector import Detector, open_network
from utils.drawing import Annotator
from utils.frames import Intensity, check_intensity
from utils.json_files import write_json
from utils.onnx_network import OnnxNetwork
from utils.overlay import Trails, Truth, judge, match_frame
from utils.prediction_files import TRACK_METRICS, OutputFolder
from utils.track_score import TrackScore
from utils.tracking import TrackSettings, track_frames
from utils.video import Frame, ImageSource, open_source

LARGE = 4  # times the training's input, from which on to tell the user of the time that it takes
CONFIDENCE = 0.5  # to show detections from, where neither the command line nor the weights say


@dataclass
class Config:
    """Detect and draw: detections.json, detections.csv, and detections.mp4 and/or frames/*.png, sized as the source."""

    source: str
    """Image, folder of frames, glob of images (in quotes) or video."""
    weights: Unset[Path] = None
    """Weight file: one of this project's checkpoints, a released one, or an ONNX file of utils.export_onnx (default:
    the project's own, model_data/sstnet_infrared.pth)."""
    output: Path = Path("predictions")
    """Folder for what is written."""
    confidence: Unset[float] = None
    """Show and save detections of at least this confidence, 0 to 1 (default: what the weights recommend, else 0.5)."""
    annotations: Unset[Path] = None
    """Annotation list or COCO JSON to compare with: hits (centres within 3 pixels), misses and false alarms are drawn
    in colours of their own. Frame 1 of clip.mp4 is annotated as clip/000001.png."""
    device: str = "auto"
    """Where the network runs: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    save: Unset[Literal["video", "frames", "both"]] = None
    """Write a video (MP4), single frames (PNG) or both; default: a video, or of a single image a frame."""
    inset: bool = False
    """Show each target magnified 4 times where that hides no target."""
    track: bool = False
    """Link detections through time: numbers and fading lines in the pictures, tracks.txt in MOT format. With
    annotations that tell tracks apart, identity switches and the share of tracks found, in track_metrics.json."""
    track_reach: float = 12.0
    """Pixels from the place that a track predicts at constant velocity to its detection, at most; after n frames
    without one sqrt(n + 1) times as many."""
    track_gap: int = 5
    """Frames without detection that a track survives."""
    min_track_length: int = 1
    """Drop tracks of fewer detections, and those detections."""
    max_frames: Unset[int] = None
    """Stop after so many frames."""
    fps: Unset[float] = None
    """Frames a second of the written video; default: a video's own, 25 for images."""
    input_size: Unset[tuple[int, int]] = None
    """Height and width of the network's input in pixels, multiples of 32; default: as trained, or from the frames'
    size where the weights say how."""
    resize: Literal["letterbox", "stretch"] = "letterbox"
    """How a frame is fitted into the input: letterbox keeps its proportions."""
    intensity: Unset[Intensity] = None
    """How 16-bit and float frames become grey: full, or LOW HIGH, values that become 0 and 255; default: as trained."""
    frame_interval: Unset[int] = None
    """Frames of the source from one frame of a clip to the next; default: as trained. More than trained at a high frame
    rate, fewer at a low one."""
    nms: float = 0.65
    """IoU above which the weaker of two detections is dropped."""
    chunk: int = 0
    """Consecutive frames that go through the network together; 0: as many as suit the device and the input size."""


def main(config: Config) -> None:
    """Open everything first, which shows most faults; then stream the source through it."""
    for name in ("confidence", "nms"):
        value = getattr(config, name)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"--{name} {value}: must be between 0 and 1")
    if config.max_frames is not None and config.max_frames < 1:
        raise UserError(f"--max-frames {config.max_frames}: must be 1 or more")
    if config.frame_interval is not None and config.frame_interval < 1:
        raise UserError(f"--frame-interval {config.frame_interval}: must be 1 or more")
    if config.chunk < 0:
        raise UserError(f"--chunk {config.chunk}: must be 0 or more")
    settings = TrackSettings(config.track_reach, config.track_gap, config.min_track_length)
    if not config.track and settings != TrackSettings():
        raise UserError("--track-reach, --track-gap and --min-track-length are for --track")
    if config.intensity is not None:
        check_intensity(config.intensity)
    source = open_source(config.source, config.fps)
    detector = make_detector(config)
    source.intensity = detector.intensity  # the weights may decide
    say_if_large(source.size, detector)
    truth = Truth(config.annotations, source, detector.class_names) if config.annotations else None
    shown = islice(source, config.max_frames)
    shown = chain(list(islice(shown, 1)), shown)  # the first is read before anything of an earlier run is written over
    counts: Counter[str] = Counter()
    score = TrackScore()
    save = config.save or ("frames" if isinstance(source, ImageSource) and source.total == 1 else "video")
    with terminated_in_order(), OutputFolder(config.output, source, save, config.track, config.annotations) as folder:
        if isinstance(source, ImageSource):
            say_of_frames(source)
        try:
            frames = detect_frames(shown, detector)
            tracked = track_frames(frames, settings) if config.track else ((*entry, None) for entry in frames)
            total = min(filter(None, (source.total, config.max_frames)), default=None)
            tracked = tqdm(tracked, total=total, desc="predict", unit="frame", disable=None)
            predict(tracked, detector.class_names, truth, Annotator(config.inset), folder, counts, score)
        finally:  # also after Ctrl-C: what was found so far is there
            if score.frames:
                write_json(config.output / TRACK_METRICS, asdict(score.metrics()))
            if counts:
                print(_summary(counts, score, config.output))
    if config.track and truth and not truth.tells_tracks:
        print("note: the annotations do not tell tracks apart: no track_metrics.json", file=sys.stderr)
    for path in folder.older:
        print(f"note: {path} is of an earlier run", file=sys.stderr)
    if source.complaint:
        print(f"warning: {source.complaint}", file=sys.stderr)


def make_detector(config: Config) -> Detector:
    """The detector of the weights, with the confidence that they recommend where none is given."""
    device = choose_device(config.device)
    network = open_network(weights_or_default(config.weights), device)
    confidence = config.confidence
    if confidence is None:
        confidence = CONFIDENCE if network.confidence is None else network.confidence
        if isinstance(network.model, OnnxNetwork) and (inside := network.model.form.suppression):
            confidence = max(confidence, inside.min_confidence)  # what is less was dropped in the file
    return Detector.of(
        network, device, config.input_size, config.intensity,
        resize=config.resize, nms=config.nms, min_confidence=confidence, chunk=config.chunk,
        frame_interval=config.frame_interval,
    )  # fmt: skip


def say_if_large(size: tuple[int, int], detector: Detector) -> None:
    """A note where frames (h, w) are large: the network's work grows with the area of its input."""
    height, width = detector.letterbox(size).input_size
    usual = detector.input_size[0] * detector.input_size[1]
    if height * width > LARGE * usual:
        smaller = " ".join(str(32 * max(round(side / 32), 1)) for side in size)
        print(
            f"note: frames of {size[0]} x {size[1]} (height x width) go into the network as {height} x {width}, to "
            f"show targets at the scale of its training: {height * width / usual:.0f} times the usual work a frame; "
            f"--input-size {smaller} is faster and finds less",
            file=sys.stderr,
        )


def say_of_frames(source: ImageSource) -> None:
    """Notes where frame numbers jump within a folder, and where few grey levels are left of deep frames."""
    pairs = [(before[-1], after[0]) for before, after in pairwise(source.runs)]
    if jumps := [f"{a.name} to {b.name}" for a, b in pairs if a.parent == b.parent]:
        text = f"frame numbers jump, {jumps[0]} first ({len(jumps)} in all); clips do not reach across"
        print(f"note: {source.root}: {text}", file=sys.stderr)
    if note := note_of_levels(source.runs[0][0], source.intensity):
        print(f"note: {note}", file=sys.stderr)


def predict(
    frames: Iterable[tuple[Frame, Detections, np.ndarray | None]],
    class_names: tuple[str, ...],
    truth: Truth | None,
    annotator: Annotator,
    folder: OutputFolder,
    counts: Counter[str],
    score: TrackScore,
) -> None:
    """Draw and write frame by frame; `counts` and `score` say at any time what there was."""
    category_ids = truth.category_ids if truth else tuple(range(1, len(class_names) + 1))
    trails = Trails()
    for frame, detections, tracks in frames:
        record = truth.find(frame.path) if truth else None
        image_id = truth.image_id(frame, record) if truth else frame.index
        lines = None if tracks is None else trails.follow(tracks, detections.boxes)
        targets = truth.targets(record) if record else None
        marks = judge(detections, targets, class_names, tracks, lines)
        folder.write(
            frame,
            annotator.draw(frame.image, marks),
            coco_results(detections, image_id, category_ids),
            [class_names[label] for label in detections.classes],
            None if tracks is None else tracks.tolist(),
        )
        counts.update(["frame", *(mark.kind for mark in marks)])
        annotated = truth.tracks(record, frame.run) if record and tracks is not None else None
        if annotated is not None:
            score.add(annotated, tracks, match_frame(detections, targets).target)


@contextmanager
def terminated_in_order() -> Iterator[None]:
    """SIGTERM, which a scheduler sends, ends the command as Ctrl-C does: files are closed, status 143.

    Ctrl-C works even where the command was started with SIGINT ignored, as shells do in the background.
    """

    def stop(*_: object) -> None:
        raise SystemExit(143)

    handlers = {signal.SIGTERM: stop, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def detect_frames(source: Iterable[Frame], detector: Detector) -> Iterator[tuple[Frame, Detections]]:
    """Every frame with its detections; clips do not reach from one run of frames into another."""
    for _, run in groupby(source, key=lambda frame: frame.run):
        waiting: deque[Frame] = deque()  # frames under way in the detector
        faults: list[UserError] = []
        for detections in detector.stream(_images(run, waiting, faults)):
            yield waiting.popleft(), detections
        if faults:
            raise faults[0]


def _images(frames: Iterable[Frame], waiting: deque[Frame], faults: list[UserError]) -> Iterator[np.ndarray]:
    """The frames' images; a frame that cannot be read is said when those before it are done."""
    try:
        for frame in frames:
            waiting.append(frame)
            yield frame.image
    except UserError as error:
        faults.append(error)


def _summary(counts: Counter[str], score: TrackScore, folder: Path) -> str:
    kinds = (("detection", "detections"), ("hit", "hits"), ("miss", "misses"), ("false alarm", "false alarms"))
    found = [f"{counts[kind]} {plural}" for kind, plural in kinds if counts[kind]] or ["nothing found"]
    if score.frames:
        tracks = score.metrics()
        found.append(
            f"{100 * tracks.track_pd:.1f} % of {tracks.annotated_tracks} tracks found, {tracks.identity_switches} "
            f"identity switches, {tracks.false_tracks} of {tracks.found_tracks} tracks false"
        )
    return f"{counts['frame']} frames, {', '.join(found)}; see {folder}"


if __name__ == "__main__":
    run_command(main, Config)
