"""SSTNet in pure PyTorch: the network, its loss, its video stream and its inference form.

Imports nothing else of this project.
"""

from .inference import StreamingForm, inference_form
from .sstnet import SSTNet, VideoStream, frames_together
from .yolox_head import decode_output
from .yolox_loss import YOLOXLoss

__all__ = ["SSTNet", "StreamingForm", "VideoStream", "YOLOXLoss", "decode_output", "frames_together", "inference_form"]
