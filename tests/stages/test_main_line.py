"""The stages in order, on real digits: what they write, the same digits twice, how statuses pass on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ended_as
from safetensors.torch import load_file

from nepa.command_line import main
from nepa.data.datasets import first_images
from nepa.model.backbone import build_backbone
from nepa.objective.collapse import measure_collapse
from nepa.parameters import load_parameters

RESULTS = Path("results/runs/smallest")
ARTEFACTS = ("metrics.json", "history.csv")


def run(*arguments: str) -> None:
    assert main(list(arguments)) == 0


def metrics(stage: str, variant: str = "full", seed: int = 0) -> dict:
    return json.loads((RESULTS / stage / variant / f"seed-{seed}" / "metrics.json").read_text())


def everything() -> dict[str, bytes]:
    """Every result that two runs of one seed on one machine must share to the last digit."""
    files = [p for p in Path("results").rglob("*") if p.name in ARTEFACTS] + list(Path("checkpoints").rglob("*.*s"))
    return {str(path): path.read_bytes() for path in files}


def test_the_main_line_twice_gives_the_same_digits(project: Path) -> None:
    outcomes = []
    for _ in range(2):
        shutil.rmtree("results", ignore_errors=True)
        shutil.rmtree("checkpoints", ignore_errors=True)
        run("pretrain")
        run("finetune")
        run("segment")
        outcomes.append(everything())
    assert len(outcomes[0]) == 9
    assert outcomes[0] == outcomes[1]

    pretrained, tuned, segmented = metrics("pretrain"), metrics("finetune"), metrics("segment")
    assert pretrained["steps"] == 2 * (197 // 32)
    assert tuned["steps"] == 2 * (40 // 20) and tuned["labels"] == 40
    with np.load("data/smallest/images/test.npz") as test:
        assert [sum(row) for row in tuned["confusion"]] == np.bincount(test["labels"]).tolist()
    assert tuned["class_names"] == [str(digit) for digit in range(10)]
    assert tuned["top1"] == pytest.approx(100 * sum(tuned["confusion"][i][i] for i in range(10)) / 801)
    assert set(segmented["IoU"]) == {f"digit {digit}" for digit in range(10)}
    assert "NaN" not in (RESULTS / "segment/full/seed-0/metrics.json").read_text()
    facts = json.loads((RESULTS / "pretrain/full/seed-0/run.json").read_text())
    assert facts["seed"] == 0 and facts["threads"] == 1 and len(facts["code"]) == len(facts["data"]) == 64
    assert {"hardware", "versions", "seconds", "command"} <= facts.keys()
    assert not list(project.rglob("*.partial"))
    # Measured on validation images, with the weights that are kept.
    parameters = load_parameters()
    validation = first_images(parameters, "validation", parameters.pretrain.monitor_images)
    backbone = build_backbone(parameters)
    backbone.load_state_dict(weights("pretrain"), strict=False)
    cosine = measure_collapse(backbone.patch_embed(validation)).mean_pairwise_cosine
    assert cosine == pytest.approx(pretrained["mean_pairwise_cosine"])


def test_seeds_differ(project: Path) -> None:
    run("pretrain", "--seed", "0")
    run("pretrain", "--seed", "1")
    assert metrics("pretrain", seed=0)["loss"] != metrics("pretrain", seed=1)["loss"]


def test_variants_of_a_seed_see_the_same_labels_in_the_same_order(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nepa.stages import finetune

    seen: dict[str, list[int]] = {}
    forward = finetune.Finetuning.forward

    def spy(self, images, labels=None, mode="tensor"):  # noqa: ANN001, ANN202 - stands in for the method above
        if mode == "loss":
            seen.setdefault(current, []).extend(labels.tolist())
        return forward(self, images, labels, mode)

    monkeypatch.setattr(finetune.Finetuning, "forward", spy)
    run("pretrain")
    run("pretrain", "--variant", "no_shift")
    for current in ("full", "no_shift", "from_scratch"):  # noqa: B007 - read by the spy
        run("finetune", "--variant", current)
    assert len(seen["full"]) == 80
    assert seen["full"] == seen["no_shift"] == seen["from_scratch"]


def test_patch_embedding_is_frozen_where_it_was_pretrained(project: Path) -> None:
    run("pretrain")
    run("finetune")
    run("finetune", "--variant", "from_scratch")
    start = weights("pretrain")
    tuned, scratch = (weights("finetune", variant) for variant in ("full", "from_scratch"))
    key = "patch_embed.proj.weight"
    assert start[key].equal(tuned[key])
    assert not start[key].equal(scratch[key])
    assert not start["blocks.0.attn.qkv.weight"].equal(tuned["blocks.0.attn.qkv.weight"])


def weights(stage: str, variant: str = "full") -> dict[str, torch.Tensor]:
    name = {"pretrain": "backbone", "finetune": "classifier", "segment": "segmentor"}[stage]
    return load_file(f"checkpoints/smallest/{stage}/{variant}/seed-0/{name}.safetensors")


@pytest.mark.parametrize("variant", ["probe_last_token", "probe_mean"])
def test_a_linear_probe_trains_the_head_alone(project: Path, variant: str) -> None:
    run("pretrain")
    run("finetune", "--variant", variant)
    start, probed = weights("pretrain"), weights("finetune", variant)
    assert all(weight.equal(probed[name]) for name, weight in start.items())
    assert probed["head.weight"].any()
    assert Path(f"results/further_ablations/smallest/finetune/{variant}/seed-0/metrics.json").exists()
    assert not (RESULTS / "finetune").exists()


def heard(project: Path, stage: str, group: str, changes: dict[str, dict]) -> dict[str, bool]:
    """Which of some changes of a section reach the weights that its stage ends with."""
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw[group] |= {name: {stage: change} for name, change in changes.items()}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    run(stage)
    before = weights(stage)
    found = {}
    for name in changes:
        run(stage, "--variant", name)
        after = weights(stage, name)
        found[name] = any(not weight.equal(after[key]) for key, weight in before.items())
    return found


def test_every_setting_of_fine_tuning_is_heard(project: Path) -> None:
    changes = {
        "initialisation": "random", "labels": 20, "epochs": 3, "batch_size": 10, "base_learning_rate": 1e-3,
        "betas": [0.5, 0.999], "weight_decay": 0.5, "warmup_epochs": 0, "clip_gradient": 0.01, "ema_decay": 0.5,
        "precision": "bfloat16", "trained": "head", "pool": "last_token", "layer_decay": 0.5, "layer_decay_end": 0.8,
        "layer_decay_ramp": "cosine", "layer_warmup": True, "head_learning_rate": 1e-3, "freeze_patch_embedding": False,
        "attention": "causal", "drop_path": 0.5, "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 1.0,
    }  # fmt: skip
    from nepa.parameters.schema import Finetune

    assert set(changes) == set(Finetune.model_fields) - {"augmentation"}  # of image folders, tested there
    run("pretrain")
    found = heard(project, "finetune", "finetuning", {key: {key: value} for key, value in changes.items()})
    assert [key for key, reached in found.items() if not reached] == []


def test_every_setting_of_pretraining_is_heard(project: Path) -> None:
    changes = {
        "epochs": 3, "batch_size": 16, "base_learning_rate": 1e-3, "betas": [0.5, 0.95], "weight_decay": 0.5,
        "warmup_epochs": 0, "clip_gradient": 0.01, "ema_decay": 0.5, "precision": "bfloat16",
        "learn_qk_norm_scale": False,
    }  # fmt: skip
    from nepa.parameters.schema import Pretrain

    assert set(changes) == set(Pretrain.model_fields) - {"augmentation", "monitor_every", "monitor_images"}
    found = heard(project, "pretrain", "pretraining", {key: {key: value} for key, value in changes.items()})
    assert [key for key, reached in found.items() if not reached] == []


# How a trained segmentor is tested; its weights do not know.
OF_THE_TEST = {"stride", "inference", "test_scale", "test_scales", "test_flip"}


@pytest.mark.slow
def test_every_setting_of_segmentation_is_heard(project: Path) -> None:
    changes = {
        "initialisation": "random", "iterations": 2, "batch_size": 3, "learning_rate": 1e-4, "betas": [0.5, 0.9],
        "weight_decay": 0.5, "warmup_iterations": 0, "clip_gradient": 0.01, "ema_decay": 0.5, "precision": "bfloat16",
        "layer_decay": 0.5, "drop_path": 0.9, "blocks": [0, 1, 1, 1], "rescales": [4, 2, 1, 0.5], "decoder_channels": 4,
        "pool_scales": [1, 2, 2, 6], "auxiliary_channels": 4, "auxiliary_weight": 0.0, "dropout": 0.5, "crop": 20,
        "cat_max_ratio": 0.3,
        "augmentation": {"scale": [40, 40], "ratio": [0.9, 1.5], "flip": 0.0, "photometric_distortion": False},
    }  # fmt: skip
    from nepa.parameters.schema import Segment

    assert set(changes) == set(Segment.model_fields) - OF_THE_TEST
    alone = {key: {key: value} for key, value in changes.items()}
    alone["crop"]["stride"] = 10
    run("pretrain")
    found = heard(project, "segment", "segmentation", alone)
    assert [key for key, reached in found.items() if not reached] == []


def test_the_history_follows_the_weights_that_are_kept(project: Path) -> None:
    """Fine-tuning's is of the average, on validation images; so its last row is the result, where that is on these."""
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["data"]["evaluate_on"] = "validation"
    raw["finetune"] |= {"epochs": 4, "base_learning_rate": 0.1}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    run("prepare")
    run("finetune", "--variant", "from_scratch")
    history = pd.read_csv(RESULTS / "finetune/from_scratch/seed-0/history.csv")
    assert history["top1"].iloc[-1] == pytest.approx(metrics("finetune", "from_scratch")["top1"])


def test_labels_are_smoothed_once(project: Path) -> None:
    """With mixup by it, without by the loss."""
    from nepa.stages.finetune import Finetuning

    parameters = load_parameters()
    settings = parameters.finetune.model_copy(update={"mixup": 0.5, "label_smoothing": 0.2})
    for mixup in (0.5, 0.0):
        settings = settings.model_copy(update={"mixup": mixup})
        model = Finetuning(
            build_backbone(parameters, num_classes=10), parameters.model_copy(update={"finetune": settings})
        )
        torch.nn.init.normal_(model.classifier.head.weight)
        images, labels = torch.randn(4, 1, 8, 8), torch.tensor([1, 2, 3, 4])
        smoothed = 0.8 * torch.eye(10)[labels] + 0.02
        given = smoothed if mixup else labels
        expected = -(smoothed * model(images).log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(model.loss(images, given), expected)


def test_pooling(project: Path) -> None:
    """Which outputs the classifier sees."""
    from nepa.model.backbone import build_backbone
    from nepa.parameters.loading import load_parameters, resolve_variant
    from nepa.stages.finetune import Finetuning

    features = {}
    for variant in ("probe_last_token", "probe_mean"):
        parameters = resolve_variant(load_parameters(), "finetuning", variant)
        torch.manual_seed(0)
        model = Finetuning(build_backbone(parameters, num_classes=10), parameters).eval()
        torch.nn.init.normal_(model.classifier.head.weight)
        images = torch.randn(2, 1, 8, 8)
        tokens = model.classifier.forward_features(images, is_causal=True)[:, 1:]
        pooled = tokens[:, -1] if variant == "probe_last_token" else tokens.mean(1)
        features[variant] = model(images)
        torch.testing.assert_close(features[variant], model.classifier.head(model.classifier.fc_norm(pooled)))
    assert not torch.allclose(*features.values())


def test_scale_of_the_qk_norm(project: Path) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["pretraining"]["no_scale"] = {"pretrain": {"learn_qk_norm_scale": False}}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    key = "blocks.1.attn.q_norm.weight"
    for variant in ("full", "no_scale"):
        run("pretrain", "--variant", variant)
    assert (weights("pretrain", "no_scale")[key] == 1).all() and not (weights("pretrain")[key] == 1).all()
    run("finetune", "--variant", "no_scale")
    assert not (weights("finetune", "no_scale")[key] == 1).all()


def test_a_divergence_is_a_result(project: Path) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["pretraining"]["explodes"] = {"pretrain": {"base_learning_rate": 1e38, "warmup_epochs": 0}}
    raw["segmentation"]["explodes"] = {"segment": {"initialisation": "random", "learning_rate": 1e38}}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    run("pretrain", "--variant", "explodes")
    run("finetune", "--variant", "explodes")
    assert metrics("pretrain", "explodes")["status"] == "diverged"
    tuned = metrics("finetune", "explodes")
    assert (tuned["status"], tuned["top1"], tuned["steps"]) == ("diverged", None, 0)
    run("segment", "--variant", "explodes")
    segmented = metrics("segment", "explodes")
    assert (segmented["status"], segmented["mIoU"]) == ("diverged", None)
    assert (RESULTS / "segment/explodes/seed-0/samples.npz").exists()  # DVC expects all outputs of a stage
    run("report")
    assert "| `explodes` " in Path("results/report.md").read_text()


def test_a_recipe_without_scenes(project: Path) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text()) | {"scenes": None, "segmentation": {}}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    run("prepare")
    assert list(Path("data/smallest/scenes").iterdir()) == []
    run("pretrain")
    run("report")


def test_a_pretraining_s_status_passes_on(project: Path) -> None:
    run("pretrain")
    ended_as("collapsed", Path("checkpoints/smallest/pretrain/full/seed-0/backbone.safetensors"))
    run("finetune")
    run("segment")
    assert metrics("finetune")["status"] == metrics("segment")["status"] == "collapsed"
    assert metrics("finetune")["top1"] is not None
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["finetune"] |= {"base_learning_rate": 1e38, "warmup_epochs": 0}
    raw["segment"] |= {"learning_rate": 1e38, "warmup_iterations": 0}
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    run("finetune")
    run("segment")  # what diverges after it has its status, and no accuracy
    assert (metrics("finetune")["status"], metrics("finetune")["top1"]) == ("collapsed", None)
    assert (metrics("segment")["status"], metrics("segment")["mIoU"]) == ("collapsed", None)
    run("report")
