"""Checkpoints move both ways: bit for bit, and with the reference's figures on the other side."""

import json
from pathlib import Path

import pytest
import timm
import torch
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nepa  # noqa: F401 - registers the models with timm
from nepa.command_line import main
from nepa.conversion.reference_config import describe_reference, reference_config
from nepa.model.description import describe
from nepa.model.rotary_embedding import RotaryEmbedding
from nepa.parameters import load_parameters

GOLDEN = ("pretrain_gelu", "pretrain_gelu_affine", "pretrain_swiglu", "classify_gelu_affine")


def golden(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    with safe_open(ROOT / f"tests/golden/{name}.safetensors", "pt") as file:
        config = {"model_type": "vit_nepa"} | json.loads(file.metadata()["config"])
        return config, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict


def published(folder: Path, name: str) -> Path:
    """A folder as the reference implementation publishes its models."""
    config, tensors = golden(name)
    if name.startswith("classify"):
        config |= {"is_causal": False, "add_pooling_layer": True}  # as its figures were computed
    folder.mkdir()
    weights = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def convert(source: Path, target: Path, form: str, status: int = 0) -> Path:
    assert main(["convert", str(source), str(target), "--to", form]) == status
    return target


def equal(first: Path, second: Path) -> bool:
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(
        value.dtype == two[name].dtype and value.equal(two[name]) for name, value in one.items()
    )


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("between", ["pipeline", "timm"])
def test_the_reference_s_checkpoints_round_trip(tmp_path: Path, name: str, between: str) -> None:
    source = published(tmp_path / "published", name)
    middle = convert(source, tmp_path / "middle", between)
    back = convert(middle, tmp_path / "back", "reference")
    assert equal(source / "model.safetensors", back / "model.safetensors")
    assert json.loads((source / "config.json").read_text()) == json.loads((back / "config.json").read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_timm_computes_the_reference_s_figures(tmp_path: Path, name: str) -> None:
    folder = convert(published(tmp_path / "published", name), tmp_path / "converted", "timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    tensors = golden(name)[1]
    images = tensors["input.pixel_values"]
    with torch.no_grad():
        if name.startswith("classify"):
            torch.testing.assert_close(model(images), tensors["output.logits"], atol=1e-5, rtol=0)
        else:
            found = model.forward_features(images, is_causal=True)
            torch.testing.assert_close(found, tensors["output.last_hidden_state"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["full", "gated_mlp", "no_causal_mask"])
def test_the_pipeline_s_checkpoints_round_trip(project: Path, variant: str) -> None:
    for stage, name in (("pretrain", "backbone"), ("finetune", "classifier")):
        assert main([stage, "--variant", variant]) == 0
        source = Path(f"checkpoints/smallest/{stage}/{variant}/seed-0/{name}.safetensors")
        there = convert(source, project / f"{name}-reference", "reference")
        config = json.loads((there / "config.json").read_text())
        assert config["qk_norm_affine"]
        # What the reference's own code computes with these weights: its defaults are causal, and the last token.
        assert config["is_causal"] == (stage == "pretrain" and variant != "no_causal_mask")
        assert config["add_pooling_layer"] == (stage == "finetune")
        back = convert(there, project / f"{name}-back", "pipeline")
        assert equal(source, back)
        model = timm.create_model(f"local-dir:{convert(source, project / name, 'timm')}", pretrained=True)
        assert all(model.state_dict()[key].equal(weight) for key, weight in load_file(source).items())
        assert model.norm.eps == 1e-6 and model.pretrained_cfg["mean"] == [0.5]


def test_a_reference_s_classifier_attends_and_pools_as_its_config_says(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = published(tmp_path / "published", "classify_gelu_affine")
    config = json.loads((source / "config.json").read_text())
    del config["is_causal"]  # the reference's default is causal
    (source / "config.json").write_text(json.dumps(config))
    card = (convert(source, tmp_path / "timm", "timm") / "README.md").read_text()
    assert "model.forward_features(images, is_causal=True)" in card
    (source / "config.json").write_text(json.dumps(config | {"add_pooling_layer": False}))
    error = refused(source, tmp_path / "again", "timm", capsys)
    assert "a classifier of the last token has no norm before its head" in error


def test_the_reference_has_no_layer_scale_where_its_config_has_null(prepared: Path) -> None:
    parameters = load_parameters(prepared / "params.yaml")
    model = parameters.model.model_copy(update={"layer_scale": None})
    config = reference_config(describe(parameters.model_copy(update={"model": model})))
    assert config["layerscale_value"] is None and describe_reference(config, 0).model.layer_scale is None


def test_mmsegmentation_builds_and_loads_the_backbone(tmp_path: Path) -> None:
    import nepa.segmentation  # noqa: F401 - lets MMSegmentation be imported

    # isort: split
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope("mmseg")
    folder = convert(published(tmp_path / "published", "pretrain_gelu"), tmp_path / "converted", "mmsegmentation")
    config = Config.fromfile(folder / "backbone.json", import_custom_modules=True)
    backbone = MODELS.build(config.model.backbone)
    backbone.init_weights()
    tensors = golden("pretrain_gelu")[1]
    levels = backbone.eval()(tensors["input.pixel_values"])
    assert [level.shape for level in levels] == [(4, 48, 4, 4)] * 4
    assert config.model.backbone.blocks == [0, 0, 1, 2]
    # Trained on, it is what the pipeline trains.
    assert type(backbone.eva.rope) is RotaryEmbedding
    assert not any(block.attn.q_norm.bias.requires_grad for block in backbone.eva.blocks)
    last = MODELS.build(config.model.backbone | {"drop_path": 0.2}).eva.blocks[-1]
    assert last.drop_path1.keep.item() == pytest.approx(0.8)
    found = backbone.eva.forward_features(tensors["input.pixel_values"])
    torch.testing.assert_close(found, tensors["output.last_hidden_state_bidirectional"], atol=1e-5, rtol=0)


def refused(source: Path, target: Path, form: str, capsys: pytest.CaptureFixture) -> str:
    convert(source, target, form, status=2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not list(target.parent.glob(".*partial"))
    return error


def test_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / "target"
    torch.save({"cls_token": torch.zeros(1)}, tmp_path / "pickled.pth")
    assert "is no complete safetensors file" in refused(tmp_path / "pickled.pth", target, "timm", capsys)
    assert "not found; name a safetensors file" in refused(tmp_path / "nowhere", target, "timm", capsys)
    source = published(tmp_path / "published", "pretrain_gelu")
    weights = source / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    assert "is no complete safetensors file" in refused(source, target, "timm", capsys)
    weights.write_bytes(content)
    assert not target.exists()

    config = json.loads((source / "config.json").read_text())
    for changes, message in (
        ({"num_hidden_layers": 4}, "lacks blocks.3."),
        ({"hidden_size": 96}, "cls_token is (1, 1, 48), its description wants (1, 1, 96)"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; only 'gelu' can be converted"),
        ({"qkv_bias": False}, "qkv_bias is False; only True"),
        ({"hidden_size": 0}, "hidden_size is 0, expected a number above 0"),
        ({"layerscale_value": 0}, "layerscale_value is 0, expected a number"),
        ({"layerscale_value": None}, "gamma_1"),
        ({"hidden_size": 2**40}, "width: Input should be less than or equal to 65536"),
        ({"num_hidden_layers": 10**9}, "depth: Input should be less than or equal to 1000"),
        ({"crop_pct": 0}, "crop_share: Input should be greater than 0"),
        ({"use_gated_mlp": "false"}, "use_gated_mlp is 'false', expected true or false"),
        ({"model_type": "vit"}, "model_type 'vit' is not the reference's"),
    ):
        (source / "config.json").write_text(json.dumps(config | changes))
        assert message in refused(source, target, "timm", capsys)
    (source / "config.json").write_text(json.dumps(config))
    for unknown in ("unheard", "un.heard", "encoder.layer.0.unheard", "encoder.layer.0.un.heard"):
        save_file(load_file(weights) | {unknown: torch.zeros(1)}, weights)
        assert f"{unknown} is unknown or absent" in refused(source, target, "timm", capsys)
        weights.write_bytes(content)
    (source / "config.json").write_text("[]")
    assert "config.json holds list, expected a map" in refused(source, target, "timm", capsys)
    (source / "config.json").unlink()
    assert "config.json not found" in refused(source, target, "timm", capsys)
    weights.unlink()
    weights.mkdir()
    assert "model.safetensors cannot be read" in refused(source, target, "timm", capsys)


def test_what_cannot_be_written(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["pretrain"]) == 0 and main(["finetune", "--variant", "probe_last_token"]) == 0
    capsys.readouterr()
    source = Path("checkpoints/smallest/finetune/probe_last_token/seed-0/classifier.safetensors")
    message = "finetune.pool is last_token; the reference implementation has no norm"
    assert message in refused(source, project / "target", "reference", capsys)
    assert main(["pretrain", "--variant", "plain"]) == 0
    source = Path("checkpoints/smallest/pretrain/plain/seed-0/backbone.safetensors")
    capsys.readouterr()
    message = "model.rope is False; the reference implementation only has True"
    assert message in refused(source, project / "target", "reference", capsys)
    assert "exists; name a new one" in refused(source, project / "data", "timm", capsys)
