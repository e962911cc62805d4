"""SSTNet in pure PyTorch: the network, its loss and its video stream. Imports nothing else of this project."""

from nets.sstnet import SSTNet, VideoStream
from nets.yolox_loss import YOLOXLoss

__all__ = ["SSTNet", "VideoStream", "YOLOXLoss"]
