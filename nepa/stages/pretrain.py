"""Stage `pretrain`.

In: data/<recipe>/images. Out: checkpoints/.../backbone.safetensors (averaged weights) and results/runs/..., with
samples.npz for Fig. 5.
"""

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from nepa.data.datasets import first_images, training_dataset, workers
from nepa.data.images import images_folder, read_manifest
from nepa.model.backbone import build_backbone, describe
from nepa.objective.collapse import evaluate_pretraining, measure_collapse
from nepa.objective.next_embedding import NextEmbeddingPrediction
from nepa.objective.query_maps import query_maps
from nepa.parameters import Parameters
from nepa.stages.paths import RunPaths, data_checksum
from nepa.training.checkpoints import write_arrays, write_weights
from nepa.training.engine import build_dataloader, prepare_process, run_training
from nepa.training.optimizer import LayerwiseSchedule, build_optimizer, parameter_groups
from nepa.training.provenance import provenance

COLUMNS = [
    "step",
    "loss",
    "learning_rate",
    "gradient_norm",
    "relative_spread",
    "mean_pairwise_cosine",
    "effective_rank",
]


class Pretraining(BaseModel):
    """The objective as MMEngine's Runner calls it."""

    def __init__(self, objective: NextEmbeddingPrediction) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, images: Tensor, labels: Tensor, mode: str = "loss") -> dict[str, Tensor]:
        """Loss of images (B, C, H, W); the labels are not looked at."""
        return {"loss": self.objective(images)}


def run(parameters: Parameters, variant: str, seed: int) -> None:
    """Pretrain one variant with one seed, measure collapse and identity on validation images."""
    prepare_process(parameters, seed)
    paths = RunPaths.of(parameters, "pretrain", variant, seed)
    settings = parameters.pretrain
    dataset = training_dataset(parameters, settings.augmentation)
    validation = first_images(parameters, "validation", settings.monitor_images)
    model = Pretraining(NextEmbeddingPrediction(build_backbone(parameters), **parameters.objective.model_dump()))
    backbone = model.objective.backbone
    backbone.fc_norm.requires_grad_(False)  # the classifier's norm has no part in the objective
    if parameters.model.qk_norm and not settings.learn_qk_norm_scale:
        for block in backbone.blocks:
            block.attn.q_norm.requires_grad_(False)
            block.attn.k_norm.requires_grad_(False)

    per_epoch = len(dataset) // settings.batch_size
    steps = settings.epochs * per_epoch
    optimizer = build_optimizer(
        parameter_groups(model, backbone, settings.weight_decay),
        learning_rate=settings.learning_rate,
        betas=settings.betas,
        clip_gradient=settings.clip_gradient,
        precision=settings.precision,
    )

    def spread(current: nn.Module) -> dict[str, float]:
        embed = current.objective.backbone.patch_embed
        with torch.no_grad():
            return measure_collapse(embed(validation.to(embed.proj.weight.device))).as_dict()

    training = run_training(
        model,
        build_dataloader(dataset, settings.batch_size, seed, workers(parameters)),
        optimizer,
        LayerwiseSchedule(optimizer, steps=steps, warmup=settings.warmup_epochs * per_epoch),
        title=paths.title,
        steps=steps,
        ema_decay=settings.ema_decay,
        seed=seed,
        folder=paths.scratch,
        record_every=settings.monitor_every,
        measure=spread,
    )
    evaluation = evaluate_pretraining(model.objective, validation)
    metrics = {
        "status": training.status if training.status != "ok" else evaluation.status,
        "loss": training.loss,
        "evaluation_loss": evaluation.loss,
        "identity_cosine": evaluation.identity_cosine,
        "steps": training.steps,
        "images": training.images,
    } | evaluation.collapse.as_dict()
    write_weights(paths.checkpoints / "backbone.safetensors", _pretrained_weights(backbone), describe(parameters))
    manifest = read_manifest(images_folder(parameters))
    facts = provenance(
        parameters,
        stage="pretrain",
        variant=variant,
        seed=seed,
        data=data_checksum(manifest),
        seconds=training.seconds,
        images=training.images,
    )
    views = query_maps(model.objective, validation, parameters.data.mean, parameters.data.std)
    write_arrays(paths.results / "samples.npz", views)
    paths.write_results(metrics, training, COLUMNS, facts)


def _pretrained_weights(backbone: nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in backbone.state_dict().items() if not name.startswith("fc_norm.")}
