"""Detection loss, SimOTA and the IoU forms: against the release's records, and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nets import YOLOXLoss
from nets.boxes import iou_loss, pairwise_iou
from nets.simota import assign, candidates, class_cost, pad_targets
from nets.yolox_head import cell_grid, decode_output
from tests.reference_weights import record


@pytest.mark.parametrize("case", range(6))
def test_loss_and_gradient_equal_the_release(case):
    parts = record("parts")
    raw = torch.tensor(parts[f"loss{case}_raw"], requires_grad=True)
    targets = [torch.tensor(parts[f"loss{case}_labels{image}"]).reshape(-1, 5) for image in range(len(raw))]
    losses = YOLOXLoss(int(parts[f"loss{case}_nc"]))(raw, targets)
    losses.total.backward()
    torch.testing.assert_close(losses.total.item(), float(parts[f"loss{case}_value"]), rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.iou + losses.obj + losses.cls, losses.total)
    np.testing.assert_allclose(raw.grad, parts[f"loss{case}_grad"], atol=1e-6)


@pytest.mark.parametrize("kind", ["iou", "giou", "ciou"])
def test_iou_forms_equal_the_release(kind):
    parts = record("parts")
    loss = iou_loss(torch.tensor(parts["iou_pred"]), torch.tensor(parts["iou_target"]), kind)
    np.testing.assert_allclose(loss, parts[f"iou_{kind}"], atol=1e-6)


def test_iou_by_hand():
    a = torch.tensor([[5.0, 5.0, 10.0, 10.0]])
    b = torch.tensor([[10.0, 5.0, 10.0, 10.0], [100.0, 100.0, 4.0, 4.0]])
    torch.testing.assert_close(pairwise_iou(a, b), torch.tensor([[50 / 150, 0.0]]))
    torch.testing.assert_close(iou_loss(a, b[:1]), torch.tensor([1 - (1 / 3) ** 2]))
    torch.testing.assert_close(iou_loss(a, b[1:], "giou"), torch.tensor([1 + (102 * 102 - 116) / (102 * 102)]))
    with pytest.raises(ValueError, match="iou, giou or ciou"):
        iou_loss(a, a, "diou")


def test_class_cost_is_the_cross_entropy():
    torch.manual_seed(0)
    obj, cls = torch.randn(2, 7), torch.randn(2, 7, 3)
    classes = torch.tensor([[0, 2], [1, 1]])
    probability = (cls.sigmoid() * obj.sigmoid().unsqueeze(-1)).sqrt()  # (B, N, K)
    labels = torch.nn.functional.one_hot(classes, 3).float()  # (B, G, K)
    expected = torch.nn.functional.binary_cross_entropy(
        probability.unsqueeze(1).expand(2, 2, 7, 3), labels.unsqueeze(2).expand(2, 2, 7, 3), reduction="none"
    ).sum(-1)
    torch.testing.assert_close(class_cost(obj, cls, classes), expected)


def run_simota(side: int, boxes: torch.Tensor, targets: list[torch.Tensor], obj: float = 0.0):
    centres = (cell_grid(side, side) + 0.5) * 8
    padded, used = pad_targets(targets, boxes.device)
    logits = torch.full(boxes.shape[:2], obj)
    return assign(boxes, logits, logits.unsqueeze(-1), padded, used, centres, 8), centres


def test_candidates_lie_strictly_inside():
    centres = torch.tensor([[4.0, 4.0], [12.0, 4.0], [24.0, 4.0], [44.0, 4.0]])
    targets = torch.tensor([[[4.0, 4.0, 16.0, 16.0, 0.0]]])  # box -4..12, centre square -16..24
    candidate, both = candidates(centres, targets, torch.tensor([[True]]), stride=8)
    assert candidate[0].tolist() == [True, True, False, False]  # 24 lies on the square's edge: not inside
    assert both[0, 0].tolist() == [True, False, False, False]  # 12 lies on the box's edge


def test_perfect_predictions_take_k_anchors():
    """Three anchors predict the target exactly: the sum of IoUs is 3, so it gets those three."""
    side, target = 8, torch.tensor([[36.0, 36.0, 30.0, 30.0, 0.0]])
    boxes = torch.full((1, side * side, 4), 1.0)
    exact = [3 * side + 4, 4 * side + 4, 4 * side + 3]
    boxes[0, exact] = target[0, :4]
    boxes[0, :, :2] += 1000 * (boxes[0, :, 2:] == 1)  # the others are far away
    match, _ = run_simota(side, boxes, [target])
    assert sorted(match.positive[0].nonzero().flatten().tolist()) == sorted(exact)
    torch.testing.assert_close(match.iou[0, exact], torch.ones(3))


def test_contested_anchor_goes_to_the_cheapest():
    side = 4
    targets = torch.tensor([[12.0, 12.0, 8.0, 8.0, 0.0], [12.0, 12.0, 16.0, 16.0, 0.0]])
    boxes = torch.tensor([1000.0, 1000.0, 1.0, 1.0]).repeat(1, side * side, 1)
    boxes[0, 1 * side + 1] = targets[1, :4]  # the one useful prediction is the second target's
    match, _ = run_simota(side, boxes, [targets])
    assert match.positive[0, 1 * side + 1] and match.target[0, 1 * side + 1] == 1


def test_images_without_targets_have_no_positives_and_only_objectness():
    output = torch.randn(2, 6, 4, 4, requires_grad=True)
    losses = YOLOXLoss()(output, [torch.zeros(0, 5), torch.zeros(0, 5)])
    assert losses.num_positives == 0 and losses.iou == 0 and losses.cls == 0 and losses.obj > 0
    losses.total.backward()
    assert (output.grad[:, [0, 1, 2, 3, 5]] == 0).all() and (output.grad[:, 4] != 0).all()


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_assignment_of_a_batch_is_that_of_its_images(counts, seed):
    generator = torch.Generator().manual_seed(seed)
    side, num = 6, len(counts)
    boxes = torch.rand(num, side * side, 4, generator=generator) * 40 + 2
    targets = []
    for count in counts:
        rows = torch.rand(count, 5, generator=generator) * torch.tensor([48.0, 48.0, 20.0, 20.0, 0.0])
        targets.append(rows + torch.tensor([0.0, 0.0, 3.0, 3.0, 0.0]))
    match, _ = run_simota(side, boxes, targets)
    for image, rows in enumerate(targets):
        alone, _ = run_simota(side, boxes[image : image + 1], [rows])
        assert (alone.positive[0] == match.positive[image]).all()
        assert (alone.target[0] == match.target[image]).all()
        assert match.target[image].max() < max(len(rows), 1)
        assert bool(match.positive[image].any()) == (len(rows) > 0)


def test_a_cell_of_no_target_whose_size_overflows_is_in_no_gradient():
    output = torch.randn(1, 6, 4, 4)
    output[0, 2, 3, 3] = 200.0  # exp() of it is infinite
    output.requires_grad_()
    losses = YOLOXLoss()(output, [torch.tensor([[6.0, 6.0, 6.0, 6.0, 0.0]])])
    losses.total.backward()
    assert losses.num_positives >= 1 and losses.total.isfinite()
    assert output.grad.isfinite().all() and (output.grad[0, :4, 3, 3] == 0).all()


def test_decoding_is_traced_and_scripted():
    output = torch.randn(1, 6, 4, 8)
    for way in (torch.fx.symbolic_trace(decode_output), torch.jit.script(decode_output)):
        assert torch.equal(way(output), decode_output(output))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="expected an output of"):
        YOLOXLoss(num_classes=2)(torch.zeros(1, 6, 4, 4), [torch.zeros(0, 5)])


def test_bfloat16_output_is_scored_in_float32():
    output = torch.randn(1, 6, 4, 4)
    target = [torch.tensor([[16.0, 16.0, 8.0, 8.0, 0.0]])]
    half = YOLOXLoss()(output.bfloat16(), target).total
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, YOLOXLoss()(output.bfloat16().float(), target).total)
