"""The reference implementation's figures (tests/golden): features, loss, gradients and logits."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from timm.models.eva import Eva

from nepa.conversion.reference_names import to_timm
from nepa.model.architecture import backbone_arguments
from nepa.objective.next_embedding import NextEmbeddingPrediction

GOLDEN = Path(__file__).parent.parent / "golden"
PRETRAINED = ("pretrain_gelu", "pretrain_gelu_affine", "pretrain_swiglu")


class Reference:
    """One file of figures, and the backbone with its weights."""

    def __init__(self, name: str) -> None:
        with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
            config = json.loads(file.metadata()["config"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        self.of = {
            kind: {key.removeprefix(f"{kind}."): value for key, value in tensors.items() if key.startswith(f"{kind}.")}
            for kind in ("param", "grad", "input", "output")
        }
        self.backbone = Eva(
            img_size=config["image_size"],
            patch_size=config["patch_size"],
            embed_dim=config["hidden_size"],
            depth=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            num_classes=config.get("num_labels", 0),
            **backbone_arguments(
                mlp="swiglu" if config["use_gated_mlp"] else "gelu",
                mlp_ratio=config["intermediate_size"] / config["hidden_size"],
                norm_epsilon=config["layer_norm_eps"],
            ),
        ).eval()
        self.weights = to_timm(self.of["param"])
        missing, unexpected = self.backbone.load_state_dict(self.weights, strict=False)
        assert not unexpected
        # The reference's q/k norms have no bias, and in pretrain-B no scale; without labels there is no fc_norm.
        assert all("q_norm" in key or "k_norm" in key or key.startswith("fc_norm") for key in missing)


@pytest.mark.parametrize("name", PRETRAINED)
def test_features_and_embeddings(name: str) -> None:
    reference = Reference(name)
    images, expected = reference.of["input"]["pixel_values"], reference.of["output"]
    with torch.no_grad():
        causal = reference.backbone.forward_features(images, is_causal=True)
        bidirectional = reference.backbone.forward_features(images)
        embeddings = reference.backbone.patch_embed(images)
    torch.testing.assert_close(causal, expected["last_hidden_state"], atol=1e-5, rtol=0)
    torch.testing.assert_close(bidirectional, expected["last_hidden_state_bidirectional"], atol=1e-5, rtol=0)
    torch.testing.assert_close(embeddings, expected["input_embedding"][:, 1:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", PRETRAINED)
def test_loss_and_every_gradient(name: str) -> None:
    reference = Reference(name)
    loss = NextEmbeddingPrediction(reference.backbone)(reference.of["input"]["pixel_values"])
    assert loss.item() == pytest.approx(reference.of["output"]["loss"].item(), abs=1e-6)
    loss.backward()
    gradients = to_timm(reference.of["grad"])
    assert gradients.keys() == reference.weights.keys()
    parameters = dict(reference.backbone.named_parameters())
    for key, expected in gradients.items():
        difference = (parameters[key].grad - expected).norm()
        assert difference <= 1e-5 * expected.norm(), f"{key}: {difference / expected.norm():.1e}"


def test_logits() -> None:
    reference = Reference("classify_gelu_affine")
    with torch.no_grad():
        logits = reference.backbone(reference.of["input"]["pixel_values"])
    torch.testing.assert_close(logits, reference.of["output"]["logits"], atol=1e-5, rtol=0)
