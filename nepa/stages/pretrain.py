"""Stage `pretrain`.

In: data/<recipe>/images. Out: checkpoints/.../backbone.safetensors (averaged weights) and results/runs/..., with
samples.npz for Fig. 5.
"""

from dataclasses import fields

import torch
from mmengine.dist import is_main_process
from mmengine.model import BaseModel
from torch import Tensor, nn

from nepa.data.datasets import first_images, training_dataset
from nepa.data.images import images_folder, read_manifest
from nepa.data.preprocessing import Preprocessing
from nepa.model.backbone import build_backbone
from nepa.objective.collapse import Collapse, evaluate_pretraining, measure_collapse
from nepa.objective.next_embedding import NextEmbeddingPrediction
from nepa.objective.query_maps import query_maps
from nepa.parameters import Parameters
from nepa.runs.outcome import first_failure
from nepa.runs.paths import RunPaths
from nepa.runs.results import write_run
from nepa.runs.start import data_checksum, identity
from nepa.training.engine import prepare_process, run_training
from nepa.training.placement import device
from nepa.training.task import Task


class Pretraining(BaseModel):
    """The objective as MMEngine's Runner calls it."""

    def __init__(self, objective: NextEmbeddingPrediction, preprocessing: Preprocessing) -> None:
        super().__init__(preprocessing)
        self.objective = objective

    def forward(self, images: Tensor, labels: Tensor | None = None, mode: str = "loss") -> Tensor | dict[str, Tensor]:
        """Loss of images (B, C, H, W), or in mode "tensor" their patch embeddings; the labels are not looked at."""
        return {"loss": self.loss(images)} if mode == "loss" else self.objective.backbone.patch_embed(images)

    def loss(self, images: Tensor) -> Tensor:
        """The objective's loss of images (B, C, H, W)."""
        return self.objective(images)


def pretraining(parameters: Parameters, per_epoch: int) -> Task:
    """The model with random weights, and its schedule.

    Args:
        per_epoch: steps of one epoch.
    """
    settings = parameters.pretrain
    objective = NextEmbeddingPrediction(build_backbone(parameters), **parameters.objective.model_dump())
    model = Pretraining(objective, Preprocessing(parameters.data, settings.augmentation))
    backbone = model.objective.backbone
    backbone.fc_norm.requires_grad_(False)  # the classifier's norm has no part in the objective
    if parameters.model.qk_norm and not settings.learn_qk_norm_scale:
        for block in backbone.blocks:
            block.attn.q_norm.requires_grad_(False)
            block.attn.k_norm.requires_grad_(False)
    return Task("pretrain", model, backbone, {"warmup": settings.warmup_epochs * per_epoch}, layers="one")


def run(parameters: Parameters, variant: str, seed: int) -> None:
    """Pretrain one variant with one seed, measure collapse and identity on validation images."""
    prepare_process(parameters, seed)
    paths = RunPaths.of(parameters, "pretrain", variant, seed)
    settings = parameters.pretrain
    dataset = training_dataset(parameters, settings.augmentation)
    validation = first_images(parameters, "validation", settings.monitor_images)
    per_epoch = settings.steps_per_epoch(len(dataset))
    task = pretraining(parameters, per_epoch)

    def spread(current: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return measure_collapse(current(validation.to(device()), mode="tensor")).as_dict()

    data = data_checksum(read_manifest(images_folder(parameters)))
    training = run_training(
        parameters,
        task,
        dataset,
        title=paths.title,
        scratch=paths.scratch,
        identity=identity(parameters, paths, data),
        steps=settings.epochs * per_epoch,
        seed=seed,
        record_every=settings.monitor_every,
        measure=spread,
    )
    evaluation = evaluate_pretraining(task.model.objective, validation)
    if not is_main_process():
        return
    write_run(
        parameters,
        paths,
        training,
        data=data,
        start=None,
        file="backbone.safetensors",
        weights=_pretrained_weights(task.backbone),
        metrics={
            "status": first_failure(training.status, evaluation.status),
            "evaluation_loss": evaluation.loss,
            "identity_cosine": evaluation.identity_cosine,
        }
        | evaluation.collapse.as_dict(),
        measured=[field.name for field in fields(Collapse)],
        samples=query_maps(task.model.objective, validation, parameters.data.mean, parameters.data.std),
    )


def _pretrained_weights(backbone: nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in backbone.state_dict().items() if not name.startswith("fc_norm.")}
