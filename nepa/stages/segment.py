"""Stage `segment`.

In: data/<recipe>/scenes, a pretrained backbone. Out: checkpoints/.../segmentor.safetensors and results/runs/...
"""

import math
import warnings

import numpy as np
import torch
import torch.nn.functional as F

from nepa.segmentation.mmcv_operators import provide_operators

provide_operators()  # before anything imports MMSegmentation
# Advice to callers inside MMSegmentation itself; its recipes for ADE20K run with the same settings.
warnings.filterwarnings("ignore", category=UserWarning, module=r"mmseg\.|mmengine\.structures")

from mmengine.dataset import DefaultSampler, pseudo_collate  # noqa: E402
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size, is_main_process  # noqa: E402
from mmengine.evaluator import Evaluator  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.datasets import ADE20KDataset  # noqa: E402
from mmseg.evaluation import IoUMetric  # noqa: E402
from mmseg.models import SegTTAModel  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from nepa.data.images import read_manifest  # noqa: E402
from nepa.data.scenes import Classes, scenes_folder  # noqa: E402
from nepa.files import write_arrays  # noqa: E402
from nepa.model.backbone import build_backbone, load_backbone  # noqa: E402
from nepa.model.description import describe_run  # noqa: E402
from nepa.parameters import Parameters  # noqa: E402
from nepa.segmentation.scenes import as_batch, scenes_dataset  # noqa: E402
from nepa.segmentation.segmentor import UPerNet, build_segmentor  # noqa: E402
from nepa.stages.paths import RunPaths, data_checksum, pretrained_backbone, status_of_pretraining  # noqa: E402
from nepa.training.checkpoints import write_weights  # noqa: E402
from nepa.training.engine import prepare_process, run_training  # noqa: E402
from nepa.training.optimizer import polynomial_with_warmup  # noqa: E402
from nepa.training.provenance import provenance  # noqa: E402
from nepa.training.task import Task  # noqa: E402

COLUMNS = ["step", "loss", "learning_rate", "gradient_norm"]
SAMPLES = 4
RECORDS = 40  # of the loss on the way, at most


def segmenting(parameters: Parameters, classes: int) -> Task:
    """UPerNet with random weights on a backbone with random weights, and its schedule."""
    init_default_scope("mmseg")
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
    """Train UPerNet on the scenes; evaluate the averaged weights on the validation scenes with slide inference."""
    prepare_process(parameters, seed)
    paths = RunPaths.of(parameters, "segment", variant, seed)
    settings = parameters.segment
    manifest = read_manifest(scenes_folder(parameters))
    classes = Classes.read(scenes_folder(parameters))
    task = segmenting(parameters, len(classes.names))
    inherited, start, pretraining = "ok", None, None
    if settings.initialisation == "pretrained":
        start = pretrained_backbone(parameters, "full", seed)
        pretraining = load_backbone(task.backbone, start)
        inherited = status_of_pretraining(parameters, "full", seed)

    training = None
    if inherited != "diverged":
        training = run_training(
            parameters,
            task,
            scenes_dataset(parameters, "training"),
            title=paths.title,
            scratch=paths.scratch,
            identity=paths.identity(parameters, data_checksum(manifest), start),
            steps=settings.iterations,
            seed=seed,
            record_every=math.ceil(settings.iterations / RECORDS),
        )

    status = training.status if training and training.status != "ok" else inherited
    metrics, samples = {"mIoU": None, "aAcc": None, "mAcc": None, "IoU": None}, {}
    if status != "diverged":
        validation = scenes_dataset(parameters, "validation")
        metrics, samples = evaluate(task.model, validation, parameters.execution.segment.workers > 0)
    if not is_main_process():
        return
    write_arrays(paths.results / "samples.npz", samples)
    metrics |= {
        "status": status,
        "loss": training.loss if training else None,
        "steps": training.steps if training else 0,
        "images": training.images if training else 0,
    }
    description = describe_run(parameters, "segment", variant, seed, pretraining, classes.names, classes.colours)
    write_weights(paths.checkpoints / "segmentor.safetensors", task.model.state_dict(), description.content())
    facts = provenance(
        parameters,
        stage="segment",
        variant=variant,
        seed=seed,
        data=data_checksum(manifest),
        seconds=training.seconds if training else 0.0,
        images=metrics["images"],
    )
    paths.write_results(metrics, training, COLUMNS, facts)


def evaluate(
    segmentor: UPerNet, dataset: ADE20KDataset, read_ahead: bool = False
) -> tuple[dict, dict[str, np.ndarray]]:
    """MMSegmentation's IoUMetric over a dataset, averaged over the test's scales and flips; and the first few images.

    Args:
        read_ahead: in another process; one keeps ahead of inference in windows, and each scene takes much memory.

    Returns:
        metrics in percent, and uint8 arrays for the report: `image_0`, `truth_0`, `prediction_0` and so on, all (H, W)
        but colour images (H, W, 3), thinned to at most 256 pixels a side, and the `names` and `colours` (k, 3) of the
        classes.
    """
    evaluator = Evaluator([IoUMetric(iou_metrics=["mIoU"])])
    evaluator.dataset_meta = dataset.metainfo
    classes = dataset.metainfo["classes"]
    samples = {"names": np.array(classes), "colours": np.array(dataset.metainfo["palette"], np.uint8)}
    tester = SegTTAModel(segmentor).eval()
    sampler = DefaultSampler(dataset, shuffle=False, seed=0)
    loader = DataLoader(dataset, batch_size=1, sampler=sampler, num_workers=int(read_ahead), collate_fn=pseudo_collate)
    for number, batch in enumerate(loader):
        with torch.no_grad():
            results = tester.test_step(batch)
        evaluator.process(data_samples=results, data_batch=batch)
        scene = number * get_world_size() + get_rank()
        if scene < SAMPLES:
            truth = results[0].gt_sem_seg.data
            image = F.interpolate(batch["inputs"][0][0][None].float(), size=truth.shape[-2:])[0]
            thin = -(-max(truth.shape) // 256)
            for name, array in (("image", image), ("truth", truth), ("prediction", results[0].pred_sem_seg.data)):
                pixels = array[:, ::thin, ::thin].cpu().numpy().astype(np.uint8)
                # MMSegmentation reads colour as BGR.
                samples[f"{name}_{scene}"] = pixels[0] if len(pixels) == 1 else pixels[::-1].transpose(1, 2, 0)
    metric = evaluator.metrics[0]
    # Each process looks at as many scenes; those of them that are there to make up the number do not count.
    own = metric.results[: len(range(get_rank(), len(dataset), get_world_size()))]
    areas = torch.stack([torch.stack(areas) for areas in own]).sum(0)
    all_reduce(areas)
    per_class = metric.total_area_to_metrics(*areas, metric.metrics, metric.nan_to_num, metric.beta)["IoU"]
    scores = metric.compute_metrics([tuple(areas)])
    samples = {name: array for of_process in all_gather_object(samples) for name, array in of_process.items()}
    metrics = {name: float(scores[name]) for name in ("mIoU", "aAcc", "mAcc")}
    metrics["IoU"] = {name: float(100 * value) for name, value in zip(classes, per_class, strict=True)}
    return metrics, samples
