"""Settings of a training run: one dataclass, whose fields are the flags of train_DAUB.py and train_IRDST.py."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from utils.augment import Augmentation
from utils.check_data import Config as DataCheck
from utils.cli import Unset, UserError
from utils.frames import Intensity, check_intensity
from utils.schedule import PUBLISHED

PRESETS = {"cross-slice": (2, 2), "released": (1, 1)}  # slices, layers


@dataclass
class TrainConfig:
    """Train SSTNet. The defaults are the published recipe but for its start from YOLOX-s, --pretrained."""

    data_root: Path = Path("datasets/DAUB")
    """Folder of the data set; paths in the annotations are resolved against it."""
    train_list: Unset[Path] = None
    """Annotation list or COCO JSON to train on (default: annotations/instances_train2017.json of the data root)."""
    val_list: Unset[Path] = None
    """Annotation list or COCO JSON to validate on (default: annotations/instances_test2017.json)."""
    classes: Path = Path("model_data/classes_DAUB.txt")
    """Class names, one a line."""
    run_dir: Path = Path("runs/DAUB")
    """Folder for everything that the run writes."""

    check_data: bool = False
    """Only check the data: every fault with its place, and a summary in RUN_DIR_data; nothing is trained."""

    preset: Literal["cross-slice", "released"] = "cross-slice"
    """Motion branch: cross-slice has 2 slices x 2 layers (the paper's), released 1 x 1 (the released weights')."""
    num_slices: Unset[int] = None
    """Slices of the motion branch (default: the preset's)."""
    num_layers: Unset[int] = None
    """Layers of a slice (default: the preset's)."""
    motion_weight: float = 1.0
    """Weight of the motion term in the loss; 0: no motion branch, the detector is trained alone: a third less work
    than with --preset released, four fifths less than with cross-slice."""
    num_frames: int = 5
    """Frames of a clip, T."""
    frame_interval: int = 1
    """Frames of the video from one frame of a clip to the next (published: 1). With 2, targets and camera move twice as
    far over a clip, for the same work; what that gives depends on both (docs/study.md). Weight files keep it."""
    gate: bool = True
    """The neck's gate, by which the frames before weight the key frame's features; without it: for ablation."""
    depth: float = 0.33
    """Depth factor of the extractor."""
    width: float = 0.50
    """Width factor of the extractor, the neck and the head."""
    attention_dropout: float = 0.1
    """Dropout of the motion branch's attention."""
    input_size: tuple[int, int] = (512, 512)
    """Height and width of the network's input, multiples of 32."""
    intensity: Intensity = "full"
    """How 16-bit and float frames become grey: full (the type's range) or LOW HIGH, values that become 0 and 255.
    8-bit frames stay as they are. Weight files keep it, so that detection follows it."""

    epochs: int = 100
    """Epochs to train."""
    epoch_share: float = 0.2
    """Random share of the training clips that an epoch sees (published: a fifth)."""
    batch_size: int = 4
    """Clips of a step, in all processes together."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """SGD with Nesterov momentum (published), Adam with the published decay in its gradient, which over a long training
    shrinks what gets small gradients, the deep layers, or Adam with the decay beside it (AdamW)."""
    lr: Unset[float] = None
    """Nominal learning rate, for a batch of 64: scaled by batch/64, then clamped (default: 1e-2, Adam and AdamW
    1e-3)."""
    lr_bounds: Unset[tuple[float, float]] = None
    """Least and largest peak of the rate, after the scaling (default: published, 5e-4 5e-2, Adam 3e-4 1e-3)."""
    schedule: Literal["cosine", "step"] = "cosine"
    """Learning rate along the epochs: cosine after a warm-up, or ten equal steps down."""
    init: Literal["release", "kaiming"] = "release"
    """Weights to start from; kaiming learns much faster from scratch than the published N(0, 0.02)."""
    pretrained: Unset[Path] = None
    """Weight file to start from where names and shapes match: YOLOX-s, a released checkpoint or one of ours."""
    iou_loss: Literal["iou", "giou", "ciou"] = "iou"
    """Form of the box loss."""

    crop: int = 0
    """Train on random square crops of this many input pixels, mostly around targets; 0: whole frames."""
    target_share: float = 0.8
    """Share of the crops that are placed around a target; a smaller one shows more of what is no target."""
    flip: bool = False
    """Mirror and transpose training clips at random."""
    photometric: float = 0.0
    """Change gain and offset of training clips at random by up to this share."""
    noise: float = 0.0
    """Add noise to training clips, its deviation at random up to this many grey levels."""
    time_reversal: bool = False
    """Let half of the training clips run backwards: the frames after the key frame, the latest first."""
    frame_drop: float = 0.0
    """Chance of each frame before the key frame to be missing from a training clip; an earlier one takes its place."""

    val_interval: int = 1
    """Validate every so many epochs."""
    best_by: Literal["loss", "mAP50"] = "loss"
    """What makes a checkpoint the best: validation loss (published) or mAP50."""
    save_interval: int = 10
    """Keep the weights of every so many epochs, beside last.pth and best.pth; 0: none."""
    resume: bool = False
    """Go on from the run folder's newest whole checkpoint."""

    seed: int = 2023
    """Seed of all chance in the run."""
    workers: int = 2
    """Processes that read clips, for each training process, and that look at frames under --check-data."""
    cache: Literal["off", "ram", "disk"] = "ram"
    """Keep decoded frames from epoch to epoch: in memory that all workers share, or in files that all runs do."""
    cache_mb: int = 1024
    """Most memory for frames kept in memory, in MiB; those beyond it are read every time."""
    cache_dir: Path = Path("runs/cache")
    """Folder for frames kept in files."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    amp: Literal["off", "bf16", "fp16"] = "off"
    """Mixed precision of the network; losses stay in float32."""
    channels_last: bool = True
    """Keep maps and kernels channels-last in memory: the same up to rounding; the machine decides which is faster."""
    recompute: Literal["off", "extractor", "motion", "both"] = "off"
    """Gradient checkpointing: parts that compute their inner results twice rather than keep them in memory."""
    compile: bool = False
    """Compile the network with torch.compile."""

    accumulate: int = 1
    """Parts that the clips of a step go through the network in, one after the other, to save memory."""
    sync_batchnorm: bool = False
    """Batch statistics over all processes (GPUs only; a single process has the whole batch anyway). With --compile each
    layer's statistics part what is compiled: slow to start, and little is gained."""
    rank_timeout: int = 600
    """Seconds that a process waits for the others before it gives up."""
    checkpoint_every: int = 250
    """Steps after which last.pth is written anew, beside the end of every epoch; 0: there alone."""
    clip_grad: float = 0.0
    """Largest norm of the gradient, to which a longer one is scaled down; 0: as it is."""
    skip_nonfinite: int = 0
    """Steps of the whole run whose loss or gradient may be infinite or no number: they change nothing."""
    dry_run: bool = False
    """Print what would run (parameters, steps, learning rates, memory) and stop."""

    def __post_init__(self) -> None:
        check_input_size(self.input_size)
        checks = (
            (self.num_frames >= 2, f"--num-frames {self.num_frames}: a clip needs 2 frames or more"),
            (0 < self.depth <= 10, f"--depth {self.depth}: must be above 0 and at most 10"),
            (1 / 64 <= self.width <= 10, f"--width {self.width}: must be 1/64 (one channel in the stem) to 10"),
            (self.slices_layers not in ((0, 0), (1, 1)) or self.attention_dropout == TrainConfig.attention_dropout,
             "--attention-dropout: one node has no attention, and no motion branch none either"),
            (0 <= self.attention_dropout < 1,
             f"--attention-dropout {self.attention_dropout}: must be at least 0 and below 1"),
            (self.crop >= 0 and self.crop % 32 == 0, f"--crop {self.crop}: must be a multiple of 32, or 0 for none"),
            (0 < self.epoch_share <= 1, f"--epoch-share {self.epoch_share}: must be above 0 and at most 1"),
            (self.num_slices is None or self.num_slices > 0, "--num-slices: must be 1 or more"),
            (self.num_layers is None or self.num_layers > 0, "--num-layers: must be 1 or more"),
            (self.motion_weight >= 0, f"--motion-weight {self.motion_weight}: must not be negative"),
            (self.motion_weight > 0 or (self.num_slices is None and self.num_layers is None),
             "--num-slices and --num-layers are of the motion branch, and --motion-weight 0 leaves none"),
            (self.motion_weight > 0 or self.recompute != "motion",
             "--recompute motion: --motion-weight 0 leaves no motion branch; use extractor"),
            (self.crop > 0 or self.target_share == TrainConfig.target_share, "--target-share is for --crop"),
            (self.cache == "ram" or self.cache_mb == TrainConfig.cache_mb, "--cache-mb is for --cache ram"),
            (self.cache == "disk" or self.cache_dir == TrainConfig.cache_dir, "--cache-dir is for --cache disk"),
            (0 <= self.target_share <= 1, f"--target-share {self.target_share}: must be from 0 to 1"),
            (self.lr is None or self.lr > 0, f"--lr {self.lr}: must be above 0"),
            (self.lr_bounds is None or 0 < self.lr_bounds[0] <= self.lr_bounds[1],
             "--lr-bounds: the least rate must be above 0 and at most the largest"),
            (0 <= self.photometric < 1, f"--photometric {self.photometric}: must be at least 0 and below 1"),
            (0 <= self.noise <= 255, f"--noise {self.noise}: must be from 0 to 255 grey levels"),
            (0 <= self.frame_drop <= 0.9, f"--frame-drop {self.frame_drop}: must be from 0 to 0.9"),
            (self.seed < 2**32, f"--seed {self.seed}: must be below 2^32"),
            (self.batch_size != 1 or max(self.training_size) > 32,
             "--batch-size 1: BatchNorm has no statistics of one clip of 32 x 32 pixels; use 2 clips or more"),
            (self.clip_grad >= 0, f"--clip-grad {self.clip_grad}: must be above 0, or 0 for none"),
        )
        for holds, message in checks:
            if not holds:
                raise UserError(message)
        check_intensity(self.intensity)
        for name in ("frame_interval", "epochs", "batch_size", "val_interval", "accumulate", "rank_timeout"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be 1 or more")
        for name in ("workers", "cache_mb", "save_interval", "seed", "checkpoint_every", "skip_nonfinite"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must not be negative")

    @property
    def slices_layers(self) -> tuple[int, int]:
        """Slices and layers: the preset's where not given; none without motion term."""
        slices, layers = PRESETS[self.preset]
        if not self.motion_weight:
            return 0, 0
        return (
            slices if self.num_slices is None else self.num_slices,
            layers if self.num_layers is None else self.num_layers,
        )

    @property
    def training_size(self) -> tuple[int, int]:
        """Height and width of training clips: the input's, or the crop's."""
        height, width = self.input_size
        return (min(self.crop, height), min(self.crop, width)) if self.crop else (height, width)

    @property
    def nominal_lr(self) -> float:
        """The learning rate for a batch of 64."""
        return PUBLISHED[self.optimizer].nominal if self.lr is None else self.lr

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(
            self.crop, self.target_share, self.flip, self.photometric, self.noise, self.time_reversal, self.frame_drop
        )

    def annotations(self, split: Literal["train", "val"]) -> Path:
        """The annotation file of a split: as given, or the layout's own."""
        given = self.train_list if split == "train" else self.val_list
        name = "instances_train2017.json" if split == "train" else "instances_test2017.json"
        return given or self.data_root / "annotations" / name

    def files(self) -> dict[str, str]:
        """The settings that name the data, as whole paths: the same however they are spelled, or left out."""
        named = {"data_root": self.data_root, "train_list": self.annotations("train")}
        named["val_list"] = self.annotations("val")
        return {name: str(path.resolve()) for name, path in named.items()}

    @property
    def data_check(self) -> DataCheck:
        """The check of this run's data."""
        return DataCheck(
            data_root=self.data_root,
            train_list=self.annotations("train"),
            val_list=self.annotations("val"),
            classes=self.classes,
            decode=True,
            intensity=self.intensity,
            input_size=self.input_size,
            workers=max(self.workers, 1),
            output=self.run_dir.resolve().with_name(f"{self.run_dir.resolve().name}_data"),
        )

    def to_json(self) -> dict[str, Any]:
        """All settings as JSON types."""
        values = asdict(self)
        return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


def check_input_size(size: tuple[int, int]) -> None:
    """`UserError` where no network takes an input of so many pixels (height, width)."""
    if any(side <= 0 or side % 32 for side in size):
        raise UserError(f"--input-size {size[0]} {size[1]}: both sides must be multiples of 32, such as 512 512")


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one. UserError where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: no such device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: {torch.cuda.device_count()} CUDA devices found; use auto or cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a kind that this build lacks, or "meta"
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"--device {name}: cannot compute there ({reason}); use auto, cpu, cuda or cuda:N") from None
    return device
