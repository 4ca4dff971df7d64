"""Stage `segment`.

In: data/<recipe>/scenes, a pretrained backbone. Out: checkpoints/.../segmentor.safetensors and results/runs/...
"""

import math

from mmengine.dist import is_main_process

from nepa.data.images import read_manifest
from nepa.data.scenes import Classes, scenes_folder
from nepa.model.backbone import build_backbone
from nepa.parameters import Parameters
from nepa.runs.outcome import first_failure
from nepa.runs.paths import RunPaths
from nepa.runs.results import write_run
from nepa.runs.start import data_checksum, identity, load_start
from nepa.segmentation.evaluation import evaluate
from nepa.segmentation.scenes import as_batch, scenes_dataset
from nepa.segmentation.segmentor import build_segmentor
from nepa.training.engine import NO_TRAINING, prepare_process, run_training
from nepa.training.optimizer import polynomial_with_warmup
from nepa.training.task import Task

RECORDS = 40  # of the loss on the way, at most


def segmenting(parameters: Parameters, classes: int) -> Task:
    """UPerNet with random weights on a backbone with random weights, and its schedule."""
    settings = parameters.segment
    backbone = build_backbone(parameters, image_size=settings.crop, drop_path=settings.drop_path, dynamic=True)
    return Task(
        "segment",
        build_segmentor(parameters, backbone, classes),
        backbone,
        {"warmup": settings.warmup_iterations, "shape": polynomial_with_warmup, "decay": settings.layer_decay},
        layers="mmsegmentation",
        collate=as_batch,
    )


def run(parameters: Parameters, variant: str, seed: int) -> None:
    """Train UPerNet on the scenes; evaluate on the validation scenes, as `segment.inference` says."""
    prepare_process(parameters, seed)
    paths = RunPaths.of(parameters, "segment", variant, seed)
    settings = parameters.segment
    data = data_checksum(read_manifest(scenes_folder(parameters)))
    classes = Classes.read(scenes_folder(parameters))
    task = segmenting(parameters, len(classes.names))
    start = load_start(parameters, paths, task.backbone)

    training = NO_TRAINING
    if start.status != "diverged":
        training = run_training(
            parameters,
            task,
            scenes_dataset(parameters, "training"),
            title=paths.title,
            scratch=paths.scratch,
            identity=identity(parameters, paths, data, start.weights),
            steps=settings.iterations,
            seed=seed,
            record_every=math.ceil(settings.iterations / RECORDS),
        )

    metrics, samples = {"mIoU": None, "aAcc": None, "mAcc": None, "IoU": None}, {}
    if training.status != "diverged":
        validation = scenes_dataset(parameters, "validation")
        metrics, samples = evaluate(task.model, validation, parameters.execution.segment.workers > 0)
    if not is_main_process():
        return
    write_run(
        parameters,
        paths,
        training,
        data=data,
        start=start.description,
        file="segmentor.safetensors",
        weights=task.model.state_dict(),
        metrics=metrics | {"status": first_failure(start.status, training.status)},
        samples=samples,
        names=classes.names,
        colours=classes.colours,
    )
