"""The network by itself: shapes, modes, the fast forms against the plain equations, counted work."""

import ast
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nets import SSTNet, VideoStream
from nets.cross_slice_convlstm import ChannelAttention, CrossSliceNode, channel_tokens, token_maps
from nets.motion_coupling_neck import MotionCouplingNeck
from nets.yolox_head import decode_output

ROOT = Path(__file__).resolve().parents[1]


def small(**changes) -> SSTNet:
    torch.manual_seed(0)
    return SSTNet(**({"width": 0.125, "num_slices": 1, "num_layers": 1} | changes))


def lively(**changes: int) -> SSTNet:
    """One for inference, with weights so large that every frame of a clip changes the output."""
    model = small(**changes).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return model


@pytest.mark.parametrize(
    ("num_frames", "size", "num_classes"), [(2, (32, 32), 1), (3, (64, 96), 3), (5, (96, 32), 1), (7, (32, 64), 2)]
)
def test_any_clip_length_size_and_number_of_classes(num_frames, size, num_classes):
    model = small(num_frames=num_frames, num_classes=num_classes, num_slices=2, num_layers=1)
    clips = torch.randn(2, 3, num_frames, *size)
    shape = (2, 5 + num_classes, size[0] // 8, size[1] // 8)
    output, motion_loss = model.train()(clips)
    assert output.shape == shape and motion_loss.shape == () and motion_loss > 0
    assert model.eval()(clips).shape == shape


def test_evaluation_never_runs_the_motion_branch():
    class Refusal(torch.nn.Module):
        def forward(self, *_: object, **__: object) -> None:
            raise AssertionError("the motion branch ran")

    model = small()
    model.motion_branch = Refusal()
    assert model.eval()(torch.randn(1, 3, 5, 32, 32)).shape == (1, 6, 4, 4)
    with pytest.raises(AssertionError, match="the motion branch ran"):
        model.train()(torch.randn(2, 3, 5, 32, 32))


def test_motion_loss_reaches_both_sides():
    model = small(num_slices=2, num_layers=2).train()
    model(torch.randn(2, 3, 5, 64, 64))[1].backward()
    for part in (model.extractor.C3_p3.conv3.conv, model.motion_branch.mapping1[0], model.motion_branch.mapping2[0]):
        assert part.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (torch.zeros(1, 3, 4, 32, 32), "5 frames, not 4"),
        (torch.zeros(1, 3, 5, 40, 32), "multiples of 32"),
        (torch.zeros(1, 1, 5, 32, 32), "3 channels"),
        (torch.zeros(3, 5, 32, 32), "dimensions"),
    ],
)
def test_wrong_clips_are_refused(clips, message):
    with pytest.raises(ValueError, match=message):
        small().eval()(clips)


def test_one_frame_is_no_clip_and_frames_of_one_place_neither():
    with pytest.raises(ValueError, match="2 or more"):
        SSTNet(num_frames=1)
    with pytest.raises(ValueError, match="frame_interval 0: must be 1 or more"):
        SSTNet(frame_interval=0)


@settings(max_examples=8, deadline=None)
@given(
    num_frames=st.integers(2, 4), interval=st.integers(1, 3), cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4)
)
def test_stream_equals_clips_whatever_the_chunks(num_frames, interval, cuts):
    model = lively(num_frames=num_frames, frame_interval=interval)
    frames = torch.randn(sum(cuts), 3, 32, 64)
    stream = VideoStream(model)
    with torch.inference_mode():
        output = torch.cat([stream.push(chunk) for chunk in frames.split(cuts)])
        for k in range(len(frames)):
            ages = [interval * back for back in reversed(range(num_frames))]
            clip = torch.stack([frames[max(k - age, 0)] for age in ages], dim=1)
            expected = model(clip[None])[0]
            assert (output[k] - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_stream_may_have_an_interval_of_its_own():
    model, frames = lively(), torch.randn(9, 3, 32, 32)
    apart = lively(frame_interval=2)
    apart.load_state_dict(model.state_dict())
    with torch.inference_mode():
        output = VideoStream(model, frame_interval=2).push(frames)
        torch.testing.assert_close(output, apart.forward_video(frames), rtol=1e-4, atol=1e-5)
        assert (output - model.forward_video(frames)).abs().max() > 1e-2 * output.abs().max()


def test_a_push_that_fails_leaves_the_stream_as_it_was(monkeypatch):
    model, frames = SSTNet(width=0.0625, num_slices=0).eval(), torch.randn(6, 3, 32, 32)
    stream = VideoStream(model)
    for first in (0, 3):  # a new stream, and one under way
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(model, "detect", fail)
            stream.push(torch.randn(2, 3, 32, 32))
        found = stream.push(frames[first : first + 3])
        torch.testing.assert_close(found, model.forward_video(frames)[first : first + 3], rtol=1e-4, atol=1e-5)


def fail(*_):
    raise MemoryError


def test_forward_video_and_reset():
    model = lively()
    frames = torch.randn(9, 3, 32, 32)
    stream = VideoStream(model)
    with torch.inference_mode():
        whole = model.forward_video(frames, chunk=4)
        stream.push(torch.randn(3, 3, 32, 32))
        stream.reset()
        torch.testing.assert_close(stream.push(frames), whole, rtol=1e-4, atol=1e-5)


def test_stream_refuses_what_it_cannot_stream():
    model = small().eval()
    stream = VideoStream(model)
    with pytest.raises(ValueError, match="one frame or more"):
        stream.push(torch.zeros(0, 3, 32, 32))
    assert not stream.push(torch.zeros(1, 3, 32, 32)).requires_grad
    with pytest.raises(ValueError, match="size has changed"):
        stream.push(torch.zeros(1, 3, 32, 64))
    model.train()
    with pytest.raises(ValueError, match="model.eval"):
        stream.push(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("gated", [True, False])
def test_neck_is_the_plain_equations(gated):
    """Eq. 2.1 to 2.4 of docs/code_map.md, written down pair by pair with whole convolutions; no gate: R is 1."""
    torch.manual_seed(0)
    neck = MotionCouplingNeck(channels=8, num_frames=4, gate=gated)
    features = [torch.randn(2, 8, 5, 6) for _ in range(4)]
    for mode in (True, False):
        neck.train(mode)
        plain = MotionCouplingNeck(channels=8, num_frames=4, gate=gated)
        plain.load_state_dict(neck.state_dict())
        plain.train(mode)
        *references, key = features
        gate = plain.conv_ref(torch.cat(references, 1)) if gated else 1
        key_path = plain.conv_cr_mix(torch.cat([plain.conv_cur(gate * key), key], 1))
        pairs = sum(
            w * plain.conv_gl(torch.cat([f, key], 1)) for w, f in zip(plain.pair_weights, references, strict=True)
        )
        expected = plain.conv_final(torch.cat([plain.conv_gl_mix(pairs), key_path], 1))
        torch.testing.assert_close(neck(features), expected, rtol=1e-4, atol=1e-5)
        for name, buffer in plain.named_buffers():  # the statistics of each pair were taken in turn
            torch.testing.assert_close(neck.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)


def plain_attention(attention: ChannelAttention, query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """The same weights in PyTorch's own multi-head attention."""
    reference = torch.nn.MultiheadAttention(1024, 8, dropout=0.0, batch_first=True)
    reference.load_state_dict(attention.state_dict())
    return reference(query, memory, memory, need_weights=False)[0]


def test_node_is_the_plain_equations():
    """Eq. 4.2 to 4.11 of docs/code_map.md, frame by frame."""
    torch.manual_seed(0)
    node = CrossSliceNode(attention_dropout=0.0)
    num_frames, shape = 3, (2, 64, 9, 7)
    x, q, m_h, m_c = (torch.randn(num_frames, *shape) for _ in range(4))
    with torch.no_grad():
        output = node(num_frames, *(sequence.flatten(0, 1) for sequence in (x, q, m_h, m_c)))
        hidden, motion_hidden, motion_cell = (
            sequence.unflatten(0, (num_frames, -1))
            for sequence in (output.hidden, output.motion_hidden, output.motion_cell)
        )
        h = c = torch.zeros(shape)
        for t in range(num_frames):
            gates = node.gates_xh(torch.cat([x[t], h], 1)) + node.gates_xhqm(torch.cat([x[t], h, q[t], m_h[t]], 1))
            i, f, o, g = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            past = plain_attention(node.past_attention, channel_tokens(q[0]), channel_tokens(m_h[t]))
            future = plain_attention(node.future_attention, channel_tokens(q[-1]), past)
            a1 = node.past_mix(torch.cat([token_maps(past, shape[2:]).sigmoid() + m_h[t], m_h[t]], 1))
            a2 = node.future_mix(torch.cat([token_maps(future, shape[2:]).sigmoid() + m_h[t], m_h[t]], 1))
            i, f, g, o = node.motion_gates(torch.cat([q[t], a1, a2], 1)).chunk(4, 1)
            plain_cell = f.sigmoid() * m_c[t] + i.sigmoid() * g.tanh() + c
            plain_hidden = o.sigmoid() * plain_cell.tanh() + h
            for ours, plain in ((hidden[t], h), (motion_cell[t], plain_cell), (motion_hidden[t], plain_hidden)):
                torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_vanishing_inputs_equal_zeros():
    """The first node's q = x and the first slice's m_h = m_c = 0 may be left out."""
    torch.manual_seed(0)
    node = CrossSliceNode(attention_dropout=0.0)
    x = torch.randn(2, 64, 8, 8)  # two frames of one clip
    zeros = torch.zeros_like(x)
    with torch.no_grad():
        for short, long in zip(node(2, x, None, None, None), node(2, x, x, zeros, zeros), strict=True):
            torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-5)


def test_decode_output_by_hand():
    output = torch.zeros(1, 6, 2, 3)
    output[0, :4, 1, 2] = torch.tensor([0.5, -0.25, 0.0, 1.0])  # the cell in row 1, column 2
    box = decode_output(output, stride=8)[0, 1 * 3 + 2, :4]
    torch.testing.assert_close(box, torch.tensor([20.0, 6.0, 8.0, 8 * torch.e]))


def gflop(model: SSTNet, run) -> float:
    """Billions of floating-point operations, 2 x multiply-accumulate."""
    with FlopCounterMode(display=False) as counter:
        run(model)
    return counter.get_total_flops() / 1e9


@pytest.mark.parametrize(("slices", "layers", "limit"), [(1, 1, 170), (2, 2, 620)])
def test_training_forward_work(slices, layers, limit):
    model = SSTNet(num_slices=slices, num_layers=layers).to("meta").train()
    clip = torch.empty(1, 3, 5, 512, 512, device="meta")
    assert gflop(model, lambda m: m(clip)) <= limit


def test_evaluation_work():
    """One clip costs no more than the published 122.9 GFLOP, a frame of a long video no more than 75."""
    model = SSTNet().to("meta").eval()
    assert gflop(model, lambda m: m(torch.empty(1, 3, 5, 512, 512, device="meta"))) <= 122.9
    frames = torch.empty(40, 3, 512, 512, device="meta")
    assert gflop(model, lambda m: m.forward_video(frames)) / len(frames) <= 75


def test_published_parameter_counts():
    """4.830 M, 4.723 M and 2.396 M: 11.95 M without the motion branch."""
    model = SSTNet(num_slices=1, num_layers=1)
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.extractor, model.neck, model.head)]
    assert [round(count / 1e6, 3) for count in counts] == [4.830, 4.723, 2.396]


def test_nets_imports_nothing_of_the_project():
    for path in (ROOT / "nets").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert all(module.split(".")[0] not in ("utils", "utils_coco") for module in modules), path
