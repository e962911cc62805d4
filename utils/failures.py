"""What to say when training goes wrong: which clips, which setting, what to do."""

from __future__ import annotations

from utils.config import TrainConfig
from utils.distributed import is_others_end
from utils.heap import is_out_of_memory

NAMED_CLIPS = 4  # of a batch that is not finite


class NotFinite(Exception):
    """A step whose loss or gradient (`what`) is infinite or no number; `clips` are the numbers of its clips."""

    def __init__(self, what: str, value: float, clips: list[int]) -> None:
        super().__init__(f"the {what} is {value}")
        self.clips = clips


def name_clips(names: list[str]) -> str:
    """The clips of a batch by their last frames."""
    more = f" and {len(names) - NAMED_CLIPS} more" if len(names) > NAMED_CLIPS else ""
    return f"for the clips that end at {', '.join(names[:NAMED_CLIPS])}{more}"


def remedy(error: RuntimeError | MemoryError, config: TrainConfig, processes: int) -> str | None:
    """What to say of a failure that is the machine's; None of any other."""
    height, width = config.input_size
    if is_out_of_memory(error):
        sizes = f"--batch-size {config.batch_size} and --input-size {height} {width}"
        lower = "lower one of them, or raise --accumulate"
        return f"--device {config.device}: out of memory at {sizes}; {lower}"
    if config.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = " ".join(str(error).split())[:150]
        return (
            f"--compile: the network cannot be compiled here ({reason}); install a C++ compiler, on a GPU Triton too, "
            "or leave --compile out"
        )
    if "DataLoader worker" in str(error):  # raised wherever the main process is at that moment
        return (
            f"a process that reads clips was killed ({error}); most often memory is short: lower --workers or "
            "--cache-mb, or give the container more shared memory"
        )
    if processes > 1 and is_others_end(error):
        reason, _, last = str(error).partition("Last error:")  # NCCL's own words, of this process or of another's end
        said = f"{reason.splitlines()[0][:100]}{'; last error: ' if last else ''}{' '.join(last.split())[:200]}"
        return (
            f"another process of this run has ended, or did not answer for --rank-timeout {config.rank_timeout} s, or "
            f"the connection failed ({said}); if a process has ended, its own message says why; start all of them again"
        )
    return None
