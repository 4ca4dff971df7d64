"""ONNX graphs give torch's figures; a model card says what is known, and how to load what lies beside it."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from conftest import ROOT, Write, ended_as
from test_convert import convert, published, refused

from nepa.command_line import main
from nepa.conversion.checkpoints import read_checkpoint
from nepa.conversion.loading import timm_name
from nepa.model.backbone import build_backbone
from nepa.model.description import describe
from nepa.model.weights import write_weights
from nepa.parameters import load_parameters
from nepa.parameters.recipes import recipe_parameters

CHECKPOINTS = {
    "backbone": "checkpoints/smallest/pretrain/full/seed-0/backbone.safetensors",
    "classifier": "checkpoints/smallest/finetune/full/seed-0/classifier.safetensors",
    "segmentor": "checkpoints/smallest/segment/full/seed-0/segmentor.safetensors",
}


DESCRIPTION = {
    "model": load_parameters(ROOT / "params.yaml").model.model_dump(),
    "image_size": 8, "channels": 1, "classes": 0, "mean": 0.5, "std": 0.5,
}  # fmt: skip


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which the pipeline has run is the current one."""
    monkeypatch.chdir(trained)
    return trained


@pytest.mark.parametrize("size", ["base", "large"])
def test_a_card_names_timm_s_own_model_of_these_sizes(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert timm_name(describe(recipe_parameters(f"imagenet-{size}-paper"))) == f"nepa_{size}_patch14_224"


def classifier(write_parameters: Write, path: Path, **more: str) -> Path:
    """A classifier of random weights, with the attention and pooling of `more`."""
    parameters = load_parameters(write_parameters())
    torch.manual_seed(0)
    model = build_backbone(parameters, num_classes=10)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    write_weights(path, model.state_dict(), describe(parameters, 10, **more).content())
    return path


def outputs_agree(source: Path, folder: Path, side: int) -> None:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    model = read_checkpoint(source).model()
    for batch in (1, 2, 5):
        images = torch.randn(batch, 1, side, side)
        with torch.no_grad():
            expected = model(images).numpy()
        found = session.run(None, {"images": images.numpy()})[0]
        assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-4
    assert np.ptp(expected) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "output"), [("backbone", (17, 16)), ("segmentor", (10, 24, 24))])
def test_onnx_of_what_the_pipeline_trained(here: Path, tmp_path: Path, kind: str, output: tuple[int, ...]) -> None:
    folder = convert(Path(CHECKPOINTS[kind]), tmp_path / "onnx", "onnx")
    outputs_agree(Path(CHECKPOINTS[kind]), folder, side=24 if kind == "segmentor" else 8)
    graph = onnx.load(folder / "model.onnx")
    assert tuple(size.dim_value for size in graph.graph.output[0].type.tensor_type.shape.dim)[1:] == output
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(metadata["nepa"])["recipe"] == "smallest"
    text = card(folder)[1]
    assert run_code(text)["outputs"].shape == (1, *output)
    assert ("one window of the test" in text) == ("in windows of 24 at a stride of 16" in text) == (kind == "segmentor")


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "pool"), [("bidirectional", "mean"), ("causal", "last_token")])
def test_onnx_of_a_classifier(write_parameters: Write, tmp_path: Path, attention: str, pool: str) -> None:
    source = classifier(write_parameters, tmp_path / "classifier.safetensors", attention=attention, pool=pool)
    folder = convert(source, tmp_path / "onnx", "onnx")
    outputs_agree(source, folder, side=8)
    assert "of torch's under onnxruntime" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_a_graph_that_differs_is_not_handed_out(
    write_parameters: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from nepa.conversion import onnx_graph

    monkeypatch.setattr(onnx_graph, "TOLERANCE", 0.0)
    source = classifier(write_parameters, tmp_path / "classifier.safetensors")
    assert "outputs differ from torch's by" in refused(source, tmp_path / "onnx", "onnx", capsys)
    assert not (tmp_path / "onnx").exists()


def card(folder: Path) -> tuple[dict, str]:
    """Front matter and text of a folder's model card."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def run_code(text: str) -> dict:
    """The names that the card's code leaves behind, of all its blocks in order."""
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, names)
    return names


@pytest.mark.parametrize("kind", ["backbone", "classifier"])
def test_a_card_beside_timm_s_format(here: Path, tmp_path: Path, kind: str) -> None:
    source = Path(CHECKPOINTS[kind])
    folder = convert(source, tmp_path / "timm", "timm")
    front, text = card(folder)
    assert front["license"] == "mit" and front["library_name"] == "timm"
    results = Path(str(source.parent).replace("checkpoints", "results/runs"))
    metrics, facts = (json.loads((results / f"{name}.json").read_text()) for name in ("metrics", "run"))
    if kind == "classifier":
        assert f"| top-1 accuracy, % | {metrics['top1']:.4g} |" in text and "on 801 test images" in text
        assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == round(metrics["top1"], 2)
        assert "`nepa pretrain --variant full --seed 0`" in text and "`nepa finetune --variant full --seed 0`" in text
        assert "| labels | 40 |" in text and "| base_learning_rate | 0.016 |" in text
        assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["label_names"] == list("0123456789")
    else:
        assert f"| mean cosine of any two patches' embeddings | {metrics['mean_pairwise_cosine']:.4g} |" in text
        assert (
            "training_images 197" in text and "Output of `model.forward_features`: features `(B, 1 + 16, 16)`" in text
        )
    assert facts["code"] in text and facts["hardware"] in text and "CC BY 4.0" in text
    assert "not known" not in text and "A miniature" in text
    for path in (folder / "model.safetensors", folder / "config.json", source):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    model = run_code(text)["model"].eval()  # of the second way to load it
    images = torch.randn(2, 1, 8, 8)
    expected = read_checkpoint(source).model()
    with torch.no_grad():
        assert (model(images) if kind == "classifier" else model.forward_features(images)).equal(expected(images))


def test_a_card_says_how_to_call_what_timm_calls_otherwise(write_parameters: Write, tmp_path: Path) -> None:
    source = classifier(write_parameters, tmp_path / "c.safetensors", attention="causal", pool="last_token")
    text = card(convert(source, tmp_path / "timm", "timm"))[1]
    model, images = run_code(text)["model"].eval(), torch.randn(2, 1, 8, 8)
    call = re.search(r"the logits are `(.+?)` of timm's model", text)[1]
    with torch.no_grad():
        found = eval(call, {"model": model, "images": images})
        assert found.equal(read_checkpoint(source).model()(images)) and not found.equal(model(images))


def test_a_card_goes_on_knowing_what_it_knew(here: Path, tmp_path: Path) -> None:
    """Metrics travel with what was exported; a copy of the checkpoint, whose run lies elsewhere, has none."""
    exported = convert(Path(CHECKPOINTS["classifier"]), tmp_path / "timm", "timm")
    again = convert(exported, tmp_path / "again", "mmsegmentation")
    metric = re.search(r"\| top-1 accuracy, % \|.*", card(exported)[1])[0]
    assert metric in card(again)[1]
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(Path(CHECKPOINTS["classifier"]).read_bytes())
    text = card(convert(copy, tmp_path / "of_copy", "timm"))[1]
    assert "What these weights reach is not known" in text and "Whether the training collapsed" not in text
    assert "| labels | 40 |" in text


@pytest.mark.parametrize("kind", ["classifier", "segmentor"])
def test_a_card_beside_mmsegmentation_s_format(here: Path, tmp_path: Path, kind: str) -> None:
    folder = convert(Path(CHECKPOINTS[kind]), tmp_path / "mmsegmentation", "mmsegmentation")
    text = card(folder)[1]
    names = run_code(text)
    if kind == "classifier":
        assert names["backbone"].blocks == [0, 0, 0, 1]
        return
    assert "on 3 validation scenes" in text and "| mIoU, % |" in text
    assert names["model"].dataset_meta["classes"][3] == "digit 3"
    image = next(Path("data/smallest/scenes/images/validation").iterdir())
    found = names["inference_model"](names["model"], str(image)).pred_sem_seg.data
    assert main(["predict", str(image), "--checkpoint", CHECKPOINTS[kind], "--output", str(tmp_path)]) == 0
    from PIL import Image

    assert (np.array(Image.open(tmp_path / f"{image.stem}.labels.png")) == found[0].numpy() + 1).all()


def test_a_card_says_what_is_not_known(tmp_path: Path) -> None:
    front, text = card(convert(published(tmp_path / "published", "classify_gelu_affine"), tmp_path / "timm", "timm"))
    assert front["license"] == "unknown" and "model-index" not in front
    for sentence in (
        "What these weights were trained on is not known.",
        "How these weights were trained is not known.",
        "What these weights reach is not known",
        "The licence of the weights is not known",
        "Whether the training collapsed or diverged is not known",
        "their names are not known",
    ):
        assert sentence in text


def test_a_card_warns_of_a_collapse(project: Path) -> None:
    assert main(["pretrain"]) == 0
    path = Path(CHECKPOINTS["backbone"])
    ended_as("collapsed", path)
    text = card(convert(Path(CHECKPOINTS["backbone"]), project / "timm", "timm"))[1]
    assert "**This training ended as `collapsed`." in text


def test_a_segmentor_is_nothing_to_timm(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for form in ("timm", "reference"):
        assert "is a segmentor, which" in refused(Path(CHECKPOINTS["segmentor"]), tmp_path / form, form, capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON", "all of it: Invalid JSON"),
        ("{}", "model: Field required"),
        ('{"model": 3}', "model: Input should be"),
        ('{"later": 1}', "Field required"),
        (json.dumps(DESCRIPTION | {"classes": 2, "class_names": ["one"]}), "class_names are 1, but classes is 2"),
        (json.dumps(DESCRIPTION | {"later": 1}), "later: Extra inputs are not permitted"),
    ],
)
def test_a_description_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture, text: str, message: str
) -> None:
    from safetensors.torch import save_file

    save_file({"cls_token": torch.zeros(1)}, tmp_path / "strange.safetensors", {"nepa": text})
    error = refused(tmp_path / "strange.safetensors", tmp_path / "target", "timm", capsys)
    assert "its description is not one that this version can read" in error and message in error
