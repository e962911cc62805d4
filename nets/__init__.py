"""SSTNet in pure PyTorch: the network, its loss, its video stream and its inference form.

Imports nothing else of this project.
"""

from nets.inference import StreamingForm, inference_form
from nets.sstnet import SSTNet, VideoStream, frames_together
from nets.yolox_loss import YOLOXLoss

__all__ = ["SSTNet", "StreamingForm", "VideoStream", "YOLOXLoss", "frames_together", "inference_form"]
