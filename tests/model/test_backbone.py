"""The backbone: loading with clear errors, registration, initialisation."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from conftest import Write, not_as_root

from nepa.errors import UserError
from nepa.model.backbone import build_backbone, load_backbone
from nepa.model.description import describe
from nepa.model.weights import read_weights, write_weights
from nepa.parameters import Parameters
from nepa.parameters.loading import load_parameters, resolve_variant

AGAIN = "`nepa pretrain --variant full --seed 1`"


def load(parameters: Parameters, path: Path) -> None:
    load_backbone(build_backbone(parameters), path, parameters, AGAIN)


@pytest.fixture
def saved(write_parameters: Write, tmp_path: Path) -> Path:
    path = tmp_path / "backbone.safetensors"
    parameters = load_parameters(write_parameters())
    write_weights(path, build_backbone(parameters).state_dict(), describe(parameters).content())
    return path


def test_loading_brings_every_weight_but_the_classifier(write_parameters: Write, saved: Path) -> None:
    parameters = load_parameters(write_parameters())
    first, second = (build_backbone(parameters, num_classes=10) for _ in range(2))
    load_backbone(first, saved, parameters, AGAIN)
    load_backbone(second, saved, parameters, AGAIN)
    assert all(torch.equal(first.state_dict()[name], weight) for name, weight in second.state_dict().items())
    assert not first.head.weight.any()


def test_missing_checkpoint(write_parameters: Write, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"nowhere\.safetensors not found; run `nepa pretrain --variant full --seed 1` first"
    ):
        load(load_parameters(write_parameters()), tmp_path / "nowhere.safetensors")


def test_truncated_checkpoint(write_parameters: Write, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(UserError, match="is no complete safetensors file .* delete it and run `nepa pretrain"):
        load(load_parameters(write_parameters()), saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [("model.width", 32), ("model.mlp", "swiglu"), ("model.depth", 3), ("model.rope_base", 10.0), ("data.mean", 0.4)],
)
def test_checkpoint_of_another_model(write_parameters: Write, saved: Path, key: str, value: object) -> None:
    """Also where every weight would fit."""
    with pytest.raises(UserError, match=f"was trained with {key} .*, params.yaml has {value}; run `nepa pretrain"):
        load(load_parameters(write_parameters(**{key: value})), saved)


def test_a_classifier_is_no_pretrained_backbone(write_parameters: Write, saved: Path) -> None:
    """Though its weights would fit, its head among them."""
    parameters = load_parameters(write_parameters())
    classifier = build_backbone(parameters, num_classes=10)
    write_weights(saved, classifier.state_dict(), describe(parameters, 10).content())
    with pytest.raises(UserError, match="is a classifier, no pretrained backbone; run `nepa pretrain"):
        load_backbone(build_backbone(parameters, num_classes=10), saved, parameters, AGAIN)


@not_as_root
def test_weights_that_may_not_be_read(write_parameters: Write, saved: Path) -> None:
    saved.chmod(0)
    with pytest.raises(UserError, match="backbone.safetensors cannot be read; mend its permissions"):
        load(load_parameters(write_parameters()), saved)


@pytest.mark.parametrize(("name", "told"), [("blocks.1.attn.qkv.weight", "lacks"), ("cls_token", "is (1, 1, 3), its")])
def test_checkpoint_with_other_weights_than_it_says(write_parameters: Write, saved: Path, name: str, told: str) -> None:
    weights, description = read_weights(saved, absent="", damaged="")
    weights.pop(name) if told == "lacks" else weights.update({name: torch.zeros(1, 1, 3)})
    write_weights(saved, weights, json.loads(description))
    parameters = load_parameters(write_parameters())
    other = build_backbone(parameters)
    before = {key: weight.clone() for key, weight in other.state_dict().items()}
    with pytest.raises(UserError, match=re.escape(told)):
        load_backbone(other, saved, parameters, AGAIN)
    assert all(torch.equal(weight, before[key]) for key, weight in other.state_dict().items())


def test_positions_follow_the_size_of_the_image(write_parameters: Write, tmp_path: Path) -> None:
    """As they must for segmentation, whose crops have more patches than the images of pretraining."""
    parameters = load_parameters(write_parameters(**{"model.absolute_positions": True}))
    path = tmp_path / "backbone.safetensors"
    pretrained = build_backbone(parameters)
    write_weights(path, pretrained.state_dict(), describe(parameters).content())
    larger = build_backbone(parameters, image_size=24, dynamic=True)
    load_backbone(larger, path, parameters, AGAIN)
    assert larger.pos_embed.shape == (1, 1 + 12**2, parameters.model.width)
    assert torch.equal(larger.pos_embed[:, 0], pretrained.pos_embed[:, 0])
    assert larger(torch.randn(2, 1, 24, 24)).shape == (2, parameters.model.width)


def test_no_pickle_is_read(write_parameters: Write, tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    torch.save({"cls_token": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="is no complete safetensors file"):
        load(load_parameters(write_parameters()), path)


def test_timm_makes_the_paper_s_models() -> None:
    with torch.device("meta"):
        base, large = (timm.create_model(f"nepa_{size}_patch14_224") for size in ("base", "large"))
    # ViT-B/14 and ViT-L/14: 86 M and 303 M parameters, 1,000 classes.
    assert [round(sum(p.numel() for p in m.parameters()) / 1e6) for m in (base, large)] == [86, 304]
    assert base.patch_embed.num_patches == 256 and base.num_prefix_tokens == 1


def test_components_of_table_1b(write_parameters: Write) -> None:
    """Each switch of the further ablations is one of the model's parts."""
    parameters = load_parameters(write_parameters())
    found = {}
    for variant in ("full", *parameters.further_ablations.pretraining):
        backbone = build_backbone(resolve_variant(parameters, "pretraining", variant))
        block = backbone.blocks[0]
        found[variant] = (
            block.gamma_1 is not None and block.gamma_2 is not None,
            backbone.rope is not None,
            backbone.pos_embed is not None,
            isinstance(block.attn.q_norm, torch.nn.LayerNorm),
            isinstance(block.mlp, timm.layers.GluMlp),
        )
        backbone(torch.randn(2, 1, 8, 8))
    assert found == {  # LayerScale, RoPE, absolute positions, QK-norm, gated MLP
        "full": (True, True, False, True, False),
        "plain": (False, False, True, False, False),
        "plain_masked_40": (False, False, True, False, False),
        "plain_masked_60": (False, False, True, False, False),
        "layer_scale": (True, False, True, False, False),
        "layer_scale_rope": (True, True, False, False, False),
        "gated_mlp_without_qk_norm": (True, True, False, False, True),
        "gated_mlp": (True, True, False, True, True),
    }


@pytest.mark.parametrize(("shape", "training"), [(None, True), ([3, 5], True), ([3, 5], False)])
def test_rotary_embedding_is_timm_s_to_the_bit(
    write_parameters: Write, shape: list[int] | None, training: bool
) -> None:
    rope = build_backbone(load_parameters(write_parameters(**{"model.rope_rescale": 2.0}))).rope.train(training)
    found = []
    for cls in (type(rope), timm.layers.RotaryEmbeddingDinoV3):
        rope.__class__ = cls
        torch.manual_seed(0)
        found.append([rope.get_embed(shape) for _ in range(2)])
    assert all(torch.equal(ours, timms) for ours, timms in zip(*found, strict=True))
    assert torch.equal(*found[0]) is not training


def test_initialisation(write_parameters: Write) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(load_parameters(write_parameters(**{"model.width": 64, "model.init_std": 0.1})))
    for name, parameter in backbone.blocks.named_parameters():
        if parameter.ndim == 2:  # timm would shrink the last layers of deeper blocks
            assert parameter.std().item() == pytest.approx(0.1, rel=0.05), name
    assert backbone.patch_embed.proj.bias.any()
    reference = build_backbone(load_parameters(write_parameters(**{"model.patch_embedding_init": "truncated_normal"})))
    assert not reference.patch_embed.proj.bias.any()
    frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"blocks.{i}.attn.{n}_norm.bias" for i in range(2) for n in "qk"]  # the reference has none


def test_drop_path_drops_whole_images_and_keeps_the_mean(write_parameters: Write) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(load_parameters(write_parameters()), drop_path=0.4)
    drop = backbone.blocks[-1].drop_path2
    assert not any("keep" in name for name in backbone.state_dict())
    values = torch.ones(4000, 3, 2, dtype=torch.bfloat16)
    dropped = drop(values)
    assert dropped.dtype == values.dtype and dropped.flatten(1).unique(dim=1).shape == (4000, 1)
    assert abs((dropped == 0).float().mean().item() - 0.4) < 0.04
    assert abs(dropped.float().mean().item() - 1) < 0.07
    assert torch.equal(drop.eval()(values), values)
