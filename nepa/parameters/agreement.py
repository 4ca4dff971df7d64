"""All of params.yaml, and what its sections must agree on."""

from typing import Annotated

from pydantic import Field, model_validator

from nepa.parameters.schema import (
    STAGES,
    ComposedScenes,
    Data,
    Execution,
    Finetune,
    FurtherAblations,
    Model,
    Name,
    Objective,
    Overrides,
    Positive,
    Pretrain,
    SceneFolder,
    Section,
    Seeds,
    Segment,
    Sources,
    Variant,
)


class Parameters(Section):
    """All of params.yaml; `scenes` is null where nothing is segmented."""

    recipe: Name
    threads: Positive
    seeds: Seeds
    sources: Sources
    data: Annotated[Data, Field(discriminator="source")]
    scenes: Annotated[ComposedScenes | SceneFolder, Field(discriminator="source")] | None
    model: Model
    objective: Objective
    pretrain: Pretrain
    finetune: Finetune
    segment: Segment
    execution: Execution
    pretraining: dict[Variant, Overrides]
    finetuning: dict[Variant, Overrides]
    segmentation: dict[Variant, Overrides]
    further_ablations: FurtherAblations

    def variants(self, group: str) -> dict[str, Overrides]:
        """Every variant of `pretraining`, `finetuning` or `segmentation`, the further ablations' included."""
        return getattr(self, group) | getattr(self.further_ablations, group, {})

    @model_validator(mode="after")
    def _images_are_there_and_fit(self) -> "Parameters":
        needed = {"digits": False, "image_folder": True}.get(self.data.source)  # CIFAR-10's may be downloaded
        if needed is not None and needed != (self.sources.images is not None):
            raise ValueError(
                f"sources.images is {self.sources.images or 'null'}, but data.source is '{self.data.source}'; "
                "the digits have none (null), an image_folder is a folder or a tar file"
            )
        if self.data.image_size % self.model.patch_size:
            raise ValueError(
                f"model.patch_size {self.model.patch_size} must divide data.image_size {self.data.image_size}"
            )
        for name in ("pretrain", "finetune"):
            given = getattr(self, name).augmentation is not None
            if given != (self.data.source != "digits"):
                raise ValueError(
                    f"{name}.augmentation is {'given' if given else 'null'}; "
                    "the digits have none (null), other images need one"
                )
        return self

    @model_validator(mode="after")
    def _scenes_are_there_and_fit(self) -> "Parameters":
        scenes = self.scenes
        if scenes is None:
            if self.segmentation:
                raise ValueError("scenes is null, but segmentation has variants; give scenes, or make segmentation {}")
            return self
        if self.segment.batch_size > scenes.training:
            raise ValueError(f"segment.batch_size {self.segment.batch_size} must be at most scenes.training")
        if scenes.source == "ade20k_layout":
            if self.sources.scenes is None:
                raise ValueError("sources.scenes is null; name a folder or archive in ADE20K's layout")
            return self
        if self.sources.scenes is not None:
            raise ValueError(
                f"sources.scenes is {self.sources.scenes}, but scenes.source is '{scenes.source}'; scenes composed of "
                "digits have none (null)"
            )
        if self.data.source != "digits":
            raise ValueError(f"scenes.source 'digits' needs data.source 'digits', which is '{self.data.source}'")
        if self.segment.crop > scenes.canvas:
            raise ValueError(f"segment.crop {self.segment.crop} must be at most scenes.canvas {scenes.canvas}")
        if scenes.canvas < self.data.image_size:
            raise ValueError(f"scenes.canvas {scenes.canvas} must be at least data.image_size")
        most, fewest = scenes.digits_per_scene[1], min(self.data.training_images, self.data.evaluation_images)
        if most > fewest:
            raise ValueError(f"scenes.digits_per_scene {most} must be at most the {fewest} images of a split")
        return self

    @model_validator(mode="after")
    def _segmentor_suits_the_backbone(self) -> "Parameters":
        segment, patch = self.segment, self.model.patch_size
        if not self.segmentation:
            return self
        if segment.crop % patch:
            raise ValueError(f"segment.crop {segment.crop} must be a multiple of model.patch_size")
        if max(segment.blocks) >= self.model.depth:
            raise ValueError(f"segment.blocks {segment.blocks} must be below model.depth {self.model.depth}")
        least = segment.least_side(patch)
        if segment.crop < least:
            raise ValueError(
                f"segment.rescales {segment.rescales} leave nothing of the {segment.crop // patch} patches of a "
                "segment.crop; crop more"
            )
        side = _tested_side(self)
        if side is not None and min(segment.test_scales) * side < least:
            raise ValueError(
                f"segment.test_scales {segment.test_scales} of {side} pixels leave less than the {least} of which the "
                f"smallest of segment.rescales {segment.rescales} leaves something; test at larger ones"
            )
        if segment.batch_size < 2:
            raise ValueError("segment.batch_size must be at least 2: batch norm has no variance of one pooled value")
        if segment.augmentation and segment.augmentation.photometric_distortion and self.data.channels != 3:
            raise ValueError("segment.augmentation.photometric_distortion must be false: data.channels is not 3")
        return self

    @model_validator(mode="after")
    def _batches_can_be_filled_and_shared(self) -> "Parameters":
        all_images, labels = self.data.training_images, self.finetune.labels
        unreadable = getattr(self.data, "unreadable_allowed", 0)
        if self.pretrain.batch_size > all_images - unreadable:
            without = f" without the {unreadable} that may be unreadable" if unreadable else ""
            raise ValueError(
                f"pretrain.batch_size {self.pretrain.batch_size} must be at most the {all_images} training images"
                + without
            )
        if labels != all_images and (labels % self.data.classes or labels > all_images):
            raise ValueError(
                f"finetune.labels {labels} must be a multiple of data.classes {self.data.classes} "
                f"and at most the {all_images} training images, or all of them"
            )
        for stage in STAGES:
            execution = getattr(self.execution, stage)
            batch_size, processes = getattr(self, stage).batch_size, execution.processes
            together = self.finetune.mixed_together if stage == "finetune" else 1
            if batch_size % (processes * together):
                pairs = ", and mixes pairs of images" if together > 1 else ""
                raise ValueError(
                    f"{stage}.batch_size {batch_size} must be a multiple of {processes * together}: "
                    f"execution.{stage} has {processes} processes{pairs}"
                )
            if execution.images_per_pass is not None and execution.images_per_pass < together:
                raise ValueError(
                    f"execution.{stage}.images_per_pass must be at least {together}: it mixes pairs of images"
                )
        if self.execution.segment.images_per_pass is not None:
            raise ValueError(
                "execution.segment.images_per_pass must be null: batch norm takes its statistics over what passes at "
                "once; take more GPUs, which share them, or a smaller batch"
            )
        return self

    @model_validator(mode="after")
    def _variants_can_be_told_apart(self) -> "Parameters":
        further = self.further_ablations
        if "full" not in self.pretraining:
            raise ValueError("pretraining must contain 'full', from which fine-tuning and segmentation start")
        if self.pretraining["full"]:
            raise ValueError("pretraining.full must be {}: the sections above are its settings; change them")
        names = [*self.pretraining, *self.finetuning, *further.pretraining, *further.finetuning]
        ambiguous = sorted(name for name in names if name.startswith("variants_"))
        if ambiguous:
            raise ValueError(f"{ambiguous}: a variant's name must not begin with variants_, as a stage's does")
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"{repeated} stand in more than one of the maps of variants; give each variant one name")
        missing = sorted(set(further.seeds) - set(self.seeds.classification))
        if missing:
            raise ValueError(
                f"further_ablations.seeds {missing} have no `full` to start from or compare with; "
                f"take them from seeds.classification {self.seeds.classification}"
            )
        return self


def _tested_side(parameters: Parameters) -> int | None:
    """The shorter side in pixels of scenes at test scale 1; None where each has its own."""
    if parameters.segment.test_scale is not None:
        return min(parameters.segment.test_scale)
    return parameters.scenes.canvas if isinstance(parameters.scenes, ComposedScenes) else None
