"""Train SSTNet on DAUB: `python train_DAUB.py --help` lists every setting."""

from dataclasses import dataclass

from utils.cli import run_command
from utils.config import TrainConfig
from utils.trainer import train


@dataclass
class DAUBConfig(TrainConfig):
    """Train SSTNet on DAUB. The defaults are the published recipe but for its start from YOLOX-s, --pretrained."""


if __name__ == "__main__":
    run_command(train, DAUBConfig)
