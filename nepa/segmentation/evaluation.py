"""mIoU of a segmentor, by MMSegmentation's own metric."""

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size, is_main_process
from mmengine.evaluator import Evaluator
from mmseg.datasets import ADE20KDataset
from mmseg.evaluation import IoUMetric
from mmseg.models import SegTTAModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from nepa.segmentation.segmentor import UPerNet

SAMPLES = 4


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
    shown = tqdm(loader, desc="evaluate", unit=" scenes", delay=5, mininterval=5, disable=not is_main_process())
    for number, batch in enumerate(shown):
        with torch.no_grad():
            results = tester.test_step(batch)
        evaluator.process(data_samples=results, data_batch=batch)
        scene = number * get_world_size() + get_rank()
        if scene < min(SAMPLES, len(dataset)):
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
    areas = torch.stack([torch.zeros(4, len(classes)), *(torch.stack(areas) for areas in own)]).sum(0)
    all_reduce(areas)
    per_class = metric.total_area_to_metrics(*areas, metric.metrics, metric.nan_to_num, metric.beta)["IoU"]
    scores = metric.compute_metrics([tuple(areas)])
    samples = {name: array for of_process in all_gather_object(samples) for name, array in of_process.items()}
    metrics = {name: float(scores[name]) for name in ("mIoU", "aAcc", "mAcc")}
    # None of a class that does not occur: JSON has no NaN.
    metrics["IoU"] = {
        name: None if np.isnan(value) else float(100 * value) for name, value in zip(classes, per_class, strict=True)
    }
    return metrics, samples
