"""Train SSTNet on IRDST: `python train_IRDST.py --help` lists every setting."""

from dataclasses import dataclass
from pathlib import Path

from utils.cli import run_command
from utils.config import TrainConfig
from utils.trainer import train


@dataclass
class IRDSTConfig(TrainConfig):
    """Train SSTNet on IRDST. The defaults are the published recipe but for its start from YOLOX-s, --pretrained."""

    data_root: Path = Path("datasets/IRDST")
    """Folder of the data set; paths in the annotations are resolved against it."""
    classes: Path = Path("model_data/classes_IRDST.txt")
    """Class names, one a line."""
    run_dir: Path = Path("runs/IRDST")
    """Folder for everything that the run writes."""


if __name__ == "__main__":
    run_command(train, IRDSTConfig)
