"""The objective's switches do what they are called."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import Write
from torch import Tensor

from nepa.model.backbone import build_backbone
from nepa.objective.next_embedding import NextEmbeddingPrediction
from nepa.parameters import load_parameters


def build(write_parameters: Write, **switches: object) -> NextEmbeddingPrediction:
    torch.manual_seed(0)
    return NextEmbeddingPrediction(build_backbone(load_parameters(write_parameters())), **switches)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def changed_outputs(objective: NextEmbeddingPrediction, images: Tensor, patch: int) -> list[int]:
    """Output positions (BOS is 0) that change when one patch of the image does."""
    other = images.clone()
    row, column = divmod(patch, 4)
    other[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 1
    objective.eval()
    with torch.no_grad():
        before, after = (
            torch.cat([p.predicted[:, :1], p.own_position], 1) for p in map(objective.predict, (images, other))
        )
    return (before - after).abs().amax((0, 2)).gt(1e-6).nonzero().flatten().tolist()


def test_causal_mask_hides_what_comes_later(write_parameters: Write, images: Tensor) -> None:
    assert changed_outputs(build(write_parameters), images, patch=5) == list(range(6, 17))
    assert changed_outputs(build(write_parameters, causal_mask=False), images, patch=5) == list(range(17))


def test_shift_compares_with_the_next_patch(write_parameters: Write, images: Tensor) -> None:
    shifted, unshifted = build(write_parameters).eval(), build(write_parameters, shift=False).eval()
    with torch.no_grad():
        prediction, own = shifted.predict(images), unshifted.predict(images)
        embeddings = shifted.backbone.patch_embed(images)
        outputs = shifted.backbone.forward_features(images, is_causal=True)
        by_hand = -torch.stack([F.cosine_similarity(outputs[:, t], embeddings[:, t], dim=-1) for t in range(16)]).mean()
    torch.testing.assert_close(prediction.predicted, outputs[:, :-1])  # BOS predicts patch 0
    torch.testing.assert_close(own.predicted, own.own_position)
    assert shifted.loss(prediction).item() == pytest.approx(by_hand.item(), abs=1e-6)


@pytest.mark.parametrize(("switches", "tokens"), [({}, 16), ({"causal_mask": False}, 17), ({"shift": False}, 17)])
def test_training_leaves_out_the_last_patch_where_nothing_depends_on_it(
    write_parameters: Write, images: Tensor, switches: dict[str, bool], tokens: int
) -> None:
    objective = build(write_parameters, **switches).double()
    seen: list[int] = []
    objective.backbone.blocks[-1].register_forward_hook(lambda _, inputs, output: seen.append(output.shape[1]))
    gradients = []
    for training in (True, False):
        objective.train(training).zero_grad()
        loss = objective(images.double())
        loss.backward()
        gradients.append({name: p.grad for name, p in objective.named_parameters() if p.grad is not None})
        gradients[-1]["loss"] = loss.detach()
    assert seen == [tokens, 17]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_stop_gradient_keeps_the_target_out(write_parameters: Write, images: Tensor) -> None:
    objective = build(write_parameters)
    prediction = objective.predict(images)
    fixed = prediction.predicted.detach()
    for stop, expected in ((True, False), (False, True)):
        objective.stop_gradient = stop
        loss = objective.loss(type(prediction)(fixed, prediction.target, prediction.own_position))
        assert loss.requires_grad is expected


def test_input_mask_hides_its_share_of_the_inputs_and_no_target(write_parameters: Write, images: Tensor) -> None:
    objective = build(write_parameters, input_mask_ratio=0.4)
    embeddings = objective.backbone.patch_embed(images)
    masked = (objective._mask(embeddings) == objective.mask_token).all(-1)
    assert masked.sum(1).tolist() == [round(0.4 * 16)] * 3
    assert not torch.equal(masked[0], masked[1])
    torch.testing.assert_close(objective.predict(images).target, embeddings)
    objective.eval()
    torch.testing.assert_close(objective(images), objective(images))  # nothing is drawn in evaluation


def test_loss_is_float32_in_half_precision(write_parameters: Write, images: Tensor) -> None:
    objective = build(write_parameters)
    prediction = objective.predict(images)
    half = type(prediction)(*(t.detach().bfloat16() for t in vars(prediction).values()))
    loss = objective.loss(half)
    assert loss.dtype == torch.float32
    exact = -F.cosine_similarity(half.predicted.double(), half.target.double(), dim=-1).mean()
    assert loss.item() == pytest.approx(exact.item(), abs=1e-6)


def test_loss_stays_finite_for_embeddings_of_zero(write_parameters: Write, images: Tensor) -> None:
    objective = build(write_parameters)
    torch.nn.init.zeros_(objective.backbone.patch_embed.proj.weight)
    torch.nn.init.zeros_(objective.backbone.patch_embed.proj.bias)
    assert math.isfinite(objective(images).item())


def test_recomputed_activations_are_not_kept(write_parameters: Write, images: Tensor) -> None:
    kept, losses = [], []
    for recompute in (False, True):
        objective = build(write_parameters)
        objective.backbone.set_grad_checkpointing(recompute)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            loss = objective(images)
        loss.backward()
        kept.append(sum(sizes))
        losses.append((loss.item(), objective.backbone.cls_token.grad.norm().item()))
    assert kept[1] < kept[0] / 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
