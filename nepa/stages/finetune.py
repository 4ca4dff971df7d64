"""Stage `finetune`.

In: data/<recipe>/images, a pretrained backbone. Out: checkpoints/.../classifier.safetensors and results/runs/...
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import is_main_process
from mmengine.model import BaseModel
from timm.data import Mixup
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nepa.data.datasets import class_names, evaluation_batches, gather, training_dataset, training_labels
from nepa.data.images import images_folder, labelled_subset, read_manifest
from nepa.data.preprocessing import Preprocessing
from nepa.model.backbone import build_backbone, class_logits
from nepa.parameters import Parameters
from nepa.runs.outcome import first_failure
from nepa.runs.paths import RunPaths
from nepa.runs.results import write_run
from nepa.runs.start import data_checksum, identity, load_start
from nepa.training.engine import NO_TRAINING, prepare_process, run_training
from nepa.training.task import Task

CONFUSION_UP_TO = 100  # classes: with more, the matrix is no small file any more
RECORDS = 8  # of the validation accuracy on the way


class Finetuning(BaseModel):
    """Classification as MMEngine's Runner calls it: cross-entropy with mixup, cutmix and label smoothing."""

    def __init__(self, classifier: Eva, parameters: Parameters) -> None:
        settings = parameters.finetune
        super().__init__(Preprocessing(parameters.data, settings.augmentation))
        self.classifier = classifier
        self.attention = settings.attention
        self.pool = settings.pool
        self.smoothing = settings.label_smoothing
        self.mixup = None
        if settings.mixup or settings.cutmix:
            self.mixup = Mixup(
                mixup_alpha=settings.mixup,
                cutmix_alpha=settings.cutmix,
                label_smoothing=settings.label_smoothing,
                num_classes=parameters.data.classes,
            )

    def forward(self, images: Tensor, labels: Tensor | None = None, mode: str = "tensor") -> Tensor | dict[str, Tensor]:
        """Logits (B, classes) of images (B, C, H, W), or their loss in mode "loss"."""
        if mode != "loss":
            return self._logits(images)
        if self.mixup is not None:
            images, labels = self.mixup(images, labels)
        return {"loss": self.loss(images, labels)}

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of images (B, C, H, W) with labels (B,), or with what Mixup made of them: (B, classes)."""
        smoothing = self.smoothing if self.mixup is None else 0.0  # which has smoothed them
        return F.cross_entropy(self._logits(images).float(), labels, label_smoothing=smoothing)

    def _logits(self, images: Tensor) -> Tensor:
        return class_logits(self.classifier, images, self.attention, self.pool)


def finetuning(parameters: Parameters) -> Task:
    """The model with random weights, what of it is trained, and its schedule."""
    settings = parameters.finetune
    classifier = build_backbone(parameters, num_classes=parameters.data.classes, drop_path=settings.drop_path)
    if settings.trained == "head":
        classifier.requires_grad_(False)
        classifier.head.requires_grad_(True)
    elif settings.freeze_patch_embedding:
        classifier.patch_embed.requires_grad_(False)
    return Task(
        "finetune",
        Finetuning(classifier, parameters),
        classifier,
        {
            "warmup": settings.warmup_epochs * settings.steps_per_epoch(settings.labels),
            "decay": settings.layer_decay,
            "decay_end": settings.layer_decay_end,
            "ramp": settings.layer_decay_ramp,
            "layer_warmup": settings.layer_warmup,
        },
        head_learning_rate=settings.head_learning_rate,
        together=settings.mixed_together,
    )


def run(parameters: Parameters, variant: str, seed: int) -> None:
    """Fine-tune one variant with one seed on the seed's labelled subset, then evaluate it; nothing is chosen by it."""
    prepare_process(parameters, seed)
    paths = RunPaths.of(parameters, "finetune", variant, seed)
    settings = parameters.finetune
    workers = parameters.execution.finetune.workers
    task = finetuning(parameters)
    start = load_start(parameters, paths, task.backbone)
    data = data_checksum(read_manifest(images_folder(parameters)))

    training = NO_TRAINING
    if start.status != "diverged":
        chosen = labelled_subset(training_labels(parameters), settings.labels, seed)
        dataset = training_dataset(parameters, settings.augmentation, chosen)
        steps = settings.epochs * settings.steps_per_epoch(settings.labels)
        validation = evaluation_batches(parameters, "validation", workers)

        def accuracy(current: nn.Module) -> dict[str, float]:
            return {"top1": _top1(*predict(current, validation))}

        training = run_training(
            parameters,
            task,
            dataset,
            title=paths.title,
            scratch=paths.scratch,
            identity=identity(parameters, paths, data, start.weights),
            steps=steps,
            seed=seed,
            record_every=math.ceil(steps / RECORDS),
            measure=accuracy,
            measure_averaged=True,
        )

    metrics = {
        "status": first_failure(start.status, training.status),
        "top1": None,
        "evaluated_on": parameters.data.evaluate_on,
        "initialisation": settings.initialisation,
        "labels": settings.labels,
        "confusion": None,
        "class_names": None,
    }
    names = class_names(parameters)
    if training.status != "diverged":
        metrics |= evaluate(task.model, evaluation_batches(parameters, parameters.data.evaluate_on, workers), names)
    if not is_main_process():
        return
    write_run(
        parameters,
        paths,
        training,
        data=data,
        start=start.description,
        file="classifier.safetensors",
        weights=task.backbone.state_dict(),
        metrics=metrics,
        measured=["top1"],
        names=names,
    )


def evaluate(model: nn.Module, batches: DataLoader, names: list[str]) -> dict[str, Any]:
    """Top-1 in percent and, where the classes are few, how often each (row) was taken for each (column)."""
    predicted, labels = predict(model, batches)
    found: dict[str, Any] = {"top1": _top1(predicted, labels)}
    classes = len(names)
    if classes <= CONFUSION_UP_TO:
        counts = torch.bincount(labels * classes + predicted, minlength=classes**2)
        found |= {"confusion": counts.view(-1, classes).tolist(), "class_names": names}
    return found


def _top1(predicted: Tensor, labels: Tensor) -> float:
    return 100 * (predicted == labels).float().mean().item()


@torch.no_grad()
def predict(model: nn.Module, batches: DataLoader) -> tuple[Tensor, Tensor]:
    """Predicted and true classes, (n,) each, in evaluation mode, of all processes' batches together."""
    training = model.training
    model.eval()
    predicted, labels = [], []
    for batch in batches:
        predicted.append(model(model.data_preprocessor(batch)["images"], mode="tensor").argmax(1).cpu())
        labels.append(batch["labels"])
    model.train(training)
    count = len(batches.dataset)
    return gather(torch.cat(predicted), count), gather(torch.cat(labels), count)
