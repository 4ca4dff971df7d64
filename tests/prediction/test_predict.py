"""`nepa predict`: what the evaluation saw, from any checkpoint, without params.yaml; a bad image stops no other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Write
from PIL import Image
from safetensors.torch import load_file

from nepa.command_line import main
from nepa.conversion.checkpoints import read_checkpoint
from nepa.conversion.models import Runnable, build_model
from nepa.data.datasets import first_images
from nepa.data.images import load_images
from nepa.model.backbone import build_backbone
from nepa.model.description import Description, describe
from nepa.model.weights import write_weights
from nepa.parameters import load_parameters
from nepa.prediction.overlay import write_overlay

SCENES = Path("data/smallest/scenes/images/validation")


@pytest.fixture
def checkpoints(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """What the main line has made, while the current folder holds nothing."""
    monkeypatch.chdir(tmp_path)
    names = {"pretrain": "backbone", "finetune": "classifier", "segment": "segmentor"}
    folder = trained / "checkpoints/smallest"
    return {name: folder / f"{stage}/full/seed-0/{name}.safetensors" for stage, name in names.items()}


def predict(capsys: pytest.CaptureFixture, *arguments: str | Path, status: int = 0) -> list[dict]:
    capsys.readouterr()
    assert main(["predict", *map(str, arguments), "--json"]) == status
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def classifier(path: Path, description: Description) -> Runnable:
    """Write a classifier of random weights."""
    torch.manual_seed(0)
    model = build_model(description)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    write_weights(path, model.state_dict(), description.content())
    return Runnable(model, description)


def test_classes_are_what_the_evaluation_saw(
    checkpoints: dict[str, Path], trained: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        there.chdir(trained)
        parameters = load_parameters()
        seen = first_images(parameters, "test", 40)
        pixels = load_images(parameters, "test").pixels
    paths = []
    for number in range(40):
        paths.append(f"{number}.png")
        Image.fromarray(pixels[number, ..., 0]).save(paths[-1])
    model = build_backbone(parameters, num_classes=10).eval()
    model.load_state_dict(load_file(checkpoints["classifier"]))
    with torch.no_grad():
        expected = model(seen)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default
    found = predict(capsys, *paths, "--checkpoint", checkpoints["classifier"].parent, "--top", "20")
    assert not torch.backends.cudnn.allow_tf32  # nor had the evaluation it
    assert [line["image"] for line in found] == paths
    for line, shares in zip(found, expected.softmax(1), strict=True):
        assert [row["name"] for row in line["classes"]] == [str(c.item()) for c in shares.argsort(descending=True)]
        assert [row["probability"] for row in line["classes"]] == pytest.approx(sorted(shares.tolist())[::-1], abs=1e-6)


@pytest.mark.parametrize("form", ["timm", "reference", "pipeline"])
def test_what_was_exported_predicts_the_same(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture, form: str
) -> None:
    Image.linear_gradient("L").save("image.png")
    exported = tmp_path / "exported"
    assert main(["convert", str(checkpoints["classifier"]), str(exported), "--to", form]) == 0
    first, second = (predict(capsys, "image.png", "--checkpoint", c) for c in (checkpoints["classifier"], exported))
    assert first == second and first[0]["classes"][0]["name"] in "0123456789"


def test_the_segmentation_is_what_the_evaluation_saw(
    checkpoints: dict[str, Path], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scenes = sorted((trained / SCENES).iterdir())
    found = predict(capsys, *scenes, "--checkpoint", checkpoints["segmentor"], "--output", tmp_path / "out")
    samples = np.load(trained / "results/runs/smallest/segment/full/seed-0/samples.npz")
    for number, line in enumerate(found):
        labels = Image.open(line["labels"])
        assert (np.array(labels) == samples[f"prediction_{number}"] + 1).all()
        shown = np.array(labels.convert("RGB"))
        assert (shown == samples["colours"][samples[f"prediction_{number}"]]).all()
        shares = {row["name"]: row["share"] for row in line["classes"]}
        assert sum(shares.values()) == pytest.approx(1)
        most = np.bincount(samples[f"prediction_{number}"].flatten()).argmax()
        assert next(iter(shares)) == f"digit {most}"
        overlay = np.array(Image.open(line["overlay"]).convert("RGB"))
        height, width = overlay.shape[:2]
        assert width > height > 500
        # The legend, to the right, has the colour of every class that occurs as it is.
        legend = {tuple(pixel) for pixel in overlay[:, height:].reshape(-1, 3).tolist()}
        assert {tuple(samples["colours"][int(name.split()[1])].tolist()) for name in shares} <= legend


def test_images_of_one_name_do_not_overwrite_each_other(
    checkpoints: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Image.linear_gradient("L").resize((32, 24)).save(f"{folder}/scene.png")
    before = Path("a/scene.png").read_bytes()
    found = predict(capsys, "a/scene.png", "b/scene.png", "--checkpoint", checkpoints["segmentor"], "--output", "a")
    assert [line["labels"] for line in found] == ["a/scene.labels.png", "a/scene-2.labels.png"]
    assert Path("a/scene.png").read_bytes() == before
    assert Image.open("a/scene.labels.png").size == (32, 24)


def test_what_a_reader_sees(checkpoints: dict[str, Path], capsys: pytest.CaptureFixture) -> None:
    Image.linear_gradient("L").resize((32, 32)).save("image.png")
    assert main(["predict", "image.png", "--checkpoint", str(checkpoints["classifier"]), "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "image.png" and len(lines) == 4
    assert float(lines[1].split()[0].rstrip("%")) >= float(lines[2].split()[0].rstrip("%"))
    assert main(["predict", "image.png", "--checkpoint", str(checkpoints["segmentor"])]) == 0
    assert capsys.readouterr().out.startswith("image.png -> predictions/image.overlay.png\n")


def test_a_name_that_is_no_text_stops_no_other(checkpoints: dict[str, Path]) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), "good.png"]
    for name in names:
        Image.linear_gradient("L").save(name)
    command = [sys.executable, "-m", "nepa.command_line", "predict", *names]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*command, "--checkpoint", checkpoints["classifier"]], env=strict, capture_output=True)
    assert done.returncode == 0 and b"caf\\xe9.png\n" in done.stdout and b"\ngood.png\n" in done.stdout


def test_a_class_s_name_is_no_formula(tmp_path: Path) -> None:
    write_overlay(Image.new("L", (8, 8)), np.zeros((8, 8), int), ["$\\frac$"], [[1, 2, 3]], tmp_path / "overlay.png")
    assert Image.open(tmp_path / "overlay.png").width > 8


def test_a_bad_image_stops_no_other(
    checkpoints: dict[str, Path], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.linear_gradient("L").save("good.png")
    Image.linear_gradient("L").save("good.jpg")
    Path("empty.png").touch()
    Path("text.png").write_text("no image")
    Path("cut.png").write_bytes(Path("good.png").read_bytes()[:100])
    Path("cut.jpg").write_bytes(Path("good.jpg").read_bytes()[:-200])
    Path("folder").mkdir()
    Image.new("1", (10_000, 10_000)).save("bomb.png")
    Image.new("L", (1, 2_000_000)).save("narrow.png")
    Image.new("I;16", (8, 8)).save("deep.png")
    bad = {
        "missing.png": "not found; name an image file",
        "empty.png": "is empty",
        "text.png": "is no image of a known format",
        "cut.png": "cannot be read (image file is truncated",
        "cut.jpg": "cannot be read (image file is truncated",
        "folder": "is a folder; name the images in it",
        "bomb.png": "has more than 89 million pixels; shrink it",
        "narrow.png": "is 1x2000000, too narrow to be resized",
        "deep.png": "has more than 8 bits per channel (mode I;16)",
    }
    arguments = ["good.png", *bad, "good.jpg", "--checkpoint", str(checkpoints["classifier"])]
    assert main(["predict", *arguments]) == 2
    shown = capsys.readouterr()
    assert [line for line in shown.out.splitlines() if not line.startswith(" ")] == ["good.png", "good.jpg"]
    errors = shown.err.splitlines()
    assert len(errors) == len(bad)
    for error, (name, message) in zip(errors, bad.items(), strict=True):
        assert error.startswith(f"nepa: error: {name}") and message in error
    found = predict(capsys, *arguments, status=2)
    assert [line["image"] for line in found if "error" in line] == list(bad)
    assert all("classes" in line for line in (found[0], found[-1]))


def test_images_that_are_too_small_or_too_large_to_segment(
    checkpoints: dict[str, Path], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (40, 7)).save("small.png")
    Image.new("L", (40, 8)).save("least.png")
    Image.new("L", (40, 40)).save("large.png")
    from nepa.prediction import segmentation

    monkeypatch.setattr(segmentation, "MOST_LOGITS", 10 * 1_000)
    small, least, large = predict(
        capsys, "small.png", "least.png", "large.png", "--checkpoint", checkpoints["segmentor"], status=2
    )
    assert small["error"].startswith("small.png is 40x7;") and "8 pixels at least" in small["error"]
    assert "labels" in least
    assert large["error"].startswith("large.png is 40x40; shrink it")


def test_nothing_to_predict(checkpoints: dict[str, Path], capsys: pytest.CaptureFixture) -> None:
    for arguments, message in (
        ([str(checkpoints["backbone"])], "is a backbone and has no classes to predict"),
        (["nowhere"], "nowhere not found"),
        (
            [str(checkpoints["classifier"].parents[4])],
            "model.safetensors not found; name a safetensors file or the folder",
        ),
        ([str(checkpoints["classifier"]), "--top", "0"], "--top 0 must be a number above 0"),
    ):
        assert main(["predict", "image.png", "--checkpoint", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error


def test_an_image_turned_by_its_camera(checkpoints: dict[str, Path], capsys: pytest.CaptureFixture) -> None:
    upright = Image.linear_gradient("L")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.save("upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
    upright.transpose(Image.Transpose.ROTATE_90).save("untold.png")
    # Pillow's own reader of such notes fails on one of a wrong type.
    malformed = b"Exif\0\0MM\0*" + bytes.fromhex(
        "00000008 0002 0112 0003 00000001 00060000 011a 0002 00000001 ff000000"
    )
    upright.transpose(Image.Transpose.ROTATE_90).save("malformed.png", exif=malformed + bytes(4))
    assert predict(capsys, "malformed.png", "--checkpoint", checkpoints["classifier"])[0]["classes"]
    first, second, third = predict(
        capsys, "upright.png", "turned.png", "untold.png", "--checkpoint", checkpoints["classifier"]
    )
    assert first["classes"] == second["classes"] != third["classes"]


@pytest.mark.parametrize(
    ("attention", "pool", "crop_share"), [("bidirectional", "mean", 0.5), ("causal", "last_token", 1.0)]
)
def test_everything_follows_the_description(
    write_parameters: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    attention: str,
    pool: str,
    crop_share: float,
) -> None:
    """Colour, size, crop, normalisation, attention, pooling and names."""
    changes = {"channels": 3, "mean": 0.4, "std": 0.3, "attention": attention, "pool": pool, "crop_share": crop_share}
    names = list("abcdefghij")
    description = describe(load_parameters(write_parameters()), 10).model_copy(update=changes | {"class_names": names})
    model = classifier(tmp_path / "classifier.safetensors", description).model
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    side = round(8 / crop_share)
    resized = image.resize((side * 30 // 20, side), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 8) / 2), (side - 8) // 2
    pixels = torch.from_numpy(np.array(resized.crop((left, top, left + 8, top + 8)))).permute(2, 0, 1) / 255
    with torch.no_grad():
        tokens = model.forward_features(((pixels - 0.4) / 0.3)[None], is_causal=attention == "causal")[:, 1:]
        pooled = tokens[:, -1] if pool == "last_token" else tokens.mean(1)
        shares = model.head(model.fc_norm(pooled))[0].softmax(0).tolist()
    found = predict(capsys, tmp_path / "image.png", "--checkpoint", tmp_path / "classifier.safetensors", "--top", "10")
    assert {row["name"]: row["probability"] for row in found[0]["classes"]} == pytest.approx(
        dict(zip(names, shares, strict=True)),
        abs=1e-4,  # PIL rounds a few of the pixels otherwise
    )


def test_a_diverged_classifier(write_parameters: Write, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    description = describe(load_parameters(write_parameters()), 10)
    path = tmp_path / "classifier.safetensors"
    classifier(path, description)
    weights = load_file(path)
    weights["head.bias"][0] = torch.nan
    write_weights(path, weights, description.content())
    Image.linear_gradient("L").save(tmp_path / "image.png")
    found = predict(capsys, tmp_path / "image.png", "--checkpoint", path, status=2)
    assert "output is not finite; its training has diverged" in found[0]["error"]


def test_a_diverged_segmentor(checkpoints: dict[str, Path], trained: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoint = read_checkpoint(checkpoints["segmentor"])
    next(value for value in checkpoint.weights.values() if value.is_floating_point()).fill_(torch.nan)
    write_weights(Path("segmentor.safetensors"), checkpoint.weights, checkpoint.description.content())
    image = next((trained / SCENES).glob("*.png"))
    assert main(["predict", str(image), "--checkpoint", "segmentor.safetensors"]) == 2
    assert "segmentor's weights are not finite; its training has diverged" in capsys.readouterr().err
    assert not Path("predictions").exists()


def test_a_reader_who_goes_away(checkpoints: dict[str, Path]) -> None:
    Image.linear_gradient("L").save("image.png")
    arguments = ["predict", "image.png", "image.png", "--checkpoint", str(checkpoints["classifier"])]
    with subprocess.Popen(
        [sys.executable, "-m", "nepa.command_line", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1
