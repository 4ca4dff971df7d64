"""What each stage trains, before there are data: to be counted, measured or compiled."""

from nepa.parameters import Parameters
from nepa.parameters.schema import Stage
from nepa.training.task import Task


def build_task(parameters: Parameters, stage: Stage) -> Task:
    """What a stage trains, with random weights."""
    if stage == "pretrain":
        from nepa.stages.pretrain import pretraining

        return pretraining(parameters, per_epoch=1)
    if stage == "finetune":
        from nepa.stages.finetune import finetuning

        return finetuning(parameters)
    from nepa.stages.segment import segmenting  # MMSegmentation is slow to import

    return segmenting(parameters, scene_classes(parameters))


def scene_classes(parameters: Parameters) -> int:
    """Classes of the scenes; ADE20K's 150 where they stand in the data alone."""
    composed = parameters.scenes is not None and parameters.scenes.source == "digits"
    return parameters.data.classes if composed else 150
