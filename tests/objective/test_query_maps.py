"""The maps of Fig. 5: the attention is what the block computes with, the cosines are those of the prediction."""

import pytest
import torch
import torch.nn.functional as F
from conftest import Write
from torch import Tensor

from nepa.model.backbone import build_backbone
from nepa.objective.next_embedding import NextEmbeddingPrediction
from nepa.objective.query_maps import predict_with_attention, query_maps, query_patches
from nepa.parameters import load_parameters


def build(write_parameters: Write, changes: dict | None = None, **switches: object) -> NextEmbeddingPrediction:
    torch.manual_seed(0)
    backbone = build_backbone(load_parameters(write_parameters(**(changes or {}))))
    return NextEmbeddingPrediction(backbone, **switches).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "changes",
    [{}, {"model.qk_norm": False}, {"model.rope": False, "model.absolute_positions": True}],
    ids=["default", "without qk_norm", "without rope"],
)
def test_attention_times_values_is_the_block_s_own_output(
    write_parameters: Write, images: Tensor, changes: dict, causal: bool
) -> None:
    objective = build(write_parameters, changes, causal_mask=causal)
    module = objective.backbone.blocks[-1].attn
    seen: dict[str, Tensor] = {}
    module.qkv.register_forward_hook(lambda _, inputs, output: seen.update(qkv=output))
    module.proj.register_forward_hook(lambda _, inputs, output: seen.update(own=inputs[0]))
    prediction, attention = predict_with_attention(objective, images)
    with torch.no_grad():
        fused = objective.predict(images)  # what training computes with; leaves its output in `own`
    assert module.fused_attn
    heads = seen["qkv"].unflatten(2, (3, module.num_heads, -1))[:, :, 2].transpose(1, 2)
    ours = (attention @ heads).transpose(1, 2).flatten(2)
    torch.testing.assert_close(ours, seen["own"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(prediction.own_position, fused.own_position, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attention.sum(-1), torch.ones(7, module.num_heads, 17))
    assert (attention.triu(1) == 0).all() == causal


@pytest.mark.parametrize("shift", [True, False])
def test_views(write_parameters: Write, images: Tensor, shift: bool) -> None:
    objective = build(write_parameters, shift=shift).train()
    views = query_maps(objective, images, mean=0.5, std=0.5)
    assert objective.training
    assert views["queries"].tolist() == [9, 13] and views["targets"].tolist() == [9 + shift, 13 + shift]
    # As they were before they were normalised.
    expected = (images[:3] / 2 + 0.5) * 255
    assert abs(views["images"][..., 0].astype(float) - expected[:, 0].numpy()).max() <= 0.501
    objective.eval()
    with torch.no_grad():
        prediction = objective.predict(images)
        _, attention = predict_with_attention(objective, images)
    torch.testing.assert_close(
        torch.from_numpy(views["attention"])[1, 0].float(), attention[1, :, 10].mean(0), atol=1e-3, rtol=1e-3
    )
    similar = F.cosine_similarity(prediction.own_position[2, 13], prediction.target[2], dim=-1)
    torch.testing.assert_close(torch.from_numpy(views["cosine"])[2, 1].float(), similar, atol=1e-3, rtol=1e-3)
    assert views["cosine"].shape == (3, 2, 16) and views["attention"].shape == (3, 2, 17) and views["causal"]


def test_every_query_has_a_target_and_large_images_are_thinned(write_parameters: Write) -> None:
    for rows, columns in ((2, 2), (4, 4), (8, 8), (16, 16), (3, 5)):
        assert max(query_patches(rows, columns)) < rows * columns - 1
    parameters = load_parameters(write_parameters())
    data = parameters.data.model_copy(update={"image_size": 224, "channels": 3})
    model = parameters.model.model_copy(update={"patch_size": 14})
    objective = NextEmbeddingPrediction(build_backbone(parameters.model_copy(update={"data": data, "model": model})))
    views = query_maps(objective, torch.zeros(2, 3, 224, 224), mean=0.5, std=0.5)
    assert views["images"].shape == (2, 112, 112, 3) and (views["images"] == 128).all()
    assert views["grid"].tolist() == [16, 16]
