"""What a user of timm does with an exported checkpoint: other sizes, other classes, features."""

import logging
from pathlib import Path

import pytest
import timm
import torch
from conftest import Write
from safetensors.torch import load_file, save_file

import nepa  # noqa: F401 - registers the models with timm
from nepa.command_line import main
from nepa.model.backbone import build_backbone
from nepa.model.description import describe
from nepa.model.weights import write_weights
from nepa.parameters import load_parameters

NAME = "nepa_base_patch14_224"
# The smallest recipe's model, in timm's terms.
SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 2, "img_size": 8, "in_chans": 1}
SMALL |= {"layer_scale": 1.0, "norm_epsilon": 1e-6}
ABSOLUTE = {"rope": False, "absolute_positions": True}


def exported(write_parameters: Write, folder: Path, classes: int, **model: bool) -> Path:
    """A checkpoint of random weights, exported by `nepa convert`."""
    parameters = load_parameters(write_parameters(**{f"model.{key}": value for key, value in model.items()}))
    torch.manual_seed(0)
    built = build_backbone(parameters, num_classes=classes)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = {name: w for name, w in built.state_dict().items() if classes or not name.startswith("fc_norm.")}
    write_weights(folder / "pipeline.safetensors", weights, describe(parameters, classes).content())
    assert main(["convert", str(folder / "pipeline.safetensors"), str(folder / "timm"), "--to", "timm"]) == 0
    return folder / "timm/model.safetensors"


@pytest.fixture
def classifier(write_parameters: Write, tmp_path: Path) -> Path:
    return exported(write_parameters, tmp_path, classes=10)


@pytest.fixture
def backbone(write_parameters: Write, tmp_path: Path) -> Path:
    return exported(write_parameters, tmp_path, classes=0)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def create(path: Path, **options: object) -> torch.nn.Module:
    arguments = SMALL | {"num_classes": 10} | options
    return timm.create_model(NAME, pretrained=False, checkpoint_path=str(path), **arguments).eval()


def test_what_the_reference_does_not_have_is_not_trained() -> None:
    """Else what was fine-tuned with timm could not be converted to it."""
    with torch.device("meta"):
        model = timm.create_model(NAME, **SMALL)
    fixed = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert fixed == [f"blocks.{block}.attn.{norm}.bias" for block in (0, 1) for norm in ("q_norm", "k_norm")]


@torch.no_grad()
def test_checkpoint_path(classifier: Path, images: torch.Tensor) -> None:
    model = create(classifier)
    assert all(model.state_dict()[name].equal(weight) for name, weight in load_file(classifier).items())
    from_folder = timm.create_model(f"local-dir:{classifier.parent}", pretrained=True).eval()
    assert model(images).shape == (2, 10) and model(images).equal(from_folder(images))


@torch.no_grad()
def test_features_only(classifier: Path, images: torch.Tensor) -> None:
    """Also of blocks before the last, where timm cuts off the rest of the model."""
    _, expected = create(classifier).forward_intermediates(images)
    for indices in ((0, 1), (0,), (-1,)):
        features = create(classifier, features_only=True, out_indices=indices)
        found = features(images)
        assert [level.shape for level in found] == [(2, 16, 4, 4)] * len(indices)
        assert all(level.equal(expected[index]) for level, index in zip(found, indices, strict=True))
        assert features.feature_info.channels() == [16] * len(indices)
        again = create(classifier, features_only=True, out_indices=indices)
        again.load_state_dict({name: torch.zeros_like(weight) for name, weight in features.state_dict().items()})
        again.load_state_dict(features.state_dict())
        assert all(level.equal(other) for level, other in zip(again(images), found, strict=True))


@torch.no_grad()
def test_forward_intermediates(classifier: Path, images: torch.Tensor) -> None:
    model = create(classifier)
    last, levels = model.forward_intermediates(images, indices=[0, 1], norm=True, return_prefix_tokens=True)
    assert last.equal(model.forward_features(images))
    patches, bos = levels[-1]
    assert patches.flatten(2).transpose(1, 2).equal(last[:, 1:]) and bos.equal(last[:, :1])


@torch.no_grad()
@pytest.mark.parametrize("positions", [{}, ABSOLUTE], ids=["rope", "absolute"])
def test_other_image_sizes(write_parameters: Write, tmp_path: Path, images: torch.Tensor, positions: dict) -> None:
    """The three ways that timm has agree, and the checkpoint's own size is as before."""
    path = exported(write_parameters, tmp_path, 10, **positions)
    large = torch.randn(2, 1, 12, 16)
    model = create(path, **positions)
    expected = model(images)
    model.set_input_size(img_size=(12, 16))
    found = model(large)
    torch.testing.assert_close(create(path, img_size=(12, 16), **positions)(large), found)
    dynamic = create(path, dynamic_img_size=True, **positions)
    torch.testing.assert_close(dynamic(large), found)
    torch.testing.assert_close(dynamic(images), expected)
    from_folder = timm.create_model(f"local-dir:{path.parent}", pretrained=True, img_size=(12, 16)).eval()
    torch.testing.assert_close(from_folder(large), found)
    levels = create(path, features_only=True, out_indices=(1,), img_size=(12, 16), **positions)(large)
    assert levels[0].shape == (2, 16, 6, 8)
    assert levels[0].equal(model.forward_intermediates(large)[1][1])


@torch.no_grad()
def test_other_classes(classifier: Path, images: torch.Tensor, caplog: pytest.LogCaptureFixture) -> None:
    features = create(classifier).forward_features(images)
    for classes in (0, 7):
        model = create(classifier, num_classes=classes)
        assert model.forward_features(images).equal(features)
        assert model(images).shape == (2, classes or 16)
    assert "head.bias, head.weight stay as they are: the checkpoint has another classifier" in caplog.text
    caplog.clear()
    model = create(classifier)
    model.reset_classifier(7)
    assert model(images).shape == (2, 7) and model.forward_features(images).equal(features)
    model.reset_classifier(0)
    assert model(images).equal(model.forward_head(features, pre_logits=True))
    assert not caplog.text


@torch.no_grad()
def test_a_backbone_gets_a_classifier(backbone: Path, images: torch.Tensor, caplog: pytest.LogCaptureFixture) -> None:
    """Exported or as the pipeline wrote it, which is without the norm before a classifier."""
    with caplog.at_level(logging.WARNING):
        exported_model, own = create(backbone), create(backbone.parent.parent / "pipeline.safetensors")
    assert exported_model.forward_features(images).equal(own.forward_features(images))
    assert exported_model(images).shape == (2, 10) and "or none" in caplog.text
    assert (own.fc_norm.weight == 1).all()


def test_what_does_not_belong_is_refused(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch for blocks\.0\.mlp\.fc1\.weight"):
        create(classifier, mlp="swiglu", mlp_ratio=8 / 3)
    for options in ({"depth": 3}, {"features_only": True, "out_indices": (2,), "depth": 3}):
        with pytest.raises(RuntimeError, match=r"Missing key.*blocks\.2\."):
            create(classifier, **options)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*blocks\.1\."):
        create(classifier, depth=1)
    save_file({"cls_token": torch.zeros(1, 1, 16)}, tmp_path / "other.safetensors")
    with pytest.raises(RuntimeError, match="Missing key"):
        create(tmp_path / "other.safetensors")


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
def test_the_base_model(tmp_path: Path) -> None:
    """The real one: no argument but the path."""
    path = str(tmp_path / "base.safetensors")
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in timm.create_model(NAME).state_dict().items()}
    save_file({name: torch.full(shape, 0.01) for name, shape in shapes.items()}, path)
    model = timm.create_model(NAME, pretrained=False, checkpoint_path=path).eval()
    assert all((weight == 0.01).all() for weight in model.state_dict().values())
    with torch.no_grad():
        assert model(torch.randn(1, 3, 224, 224)).shape == (1, 1000)
    with torch.device("meta"):
        features = timm.create_model(NAME, features_only=True, checkpoint_path=path, out_indices=(3, 5, 7, 11))
        assert [level.shape for level in features(torch.empty(1, 3, 224, 224))] == [(1, 768, 16, 16)] * 4
