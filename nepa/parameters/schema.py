"""Schema of params.yaml: every number of a run, its type and its range, section by section."""

import math
import re
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# Beyond these a number is a slip, or of a checkpoint whose model would not fit anywhere.
MOST = 10**12
LARGEST = 65_536
Positive = Annotated[int, Field(gt=0, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Size = Annotated[int, Field(gt=0, le=LARGEST)]  # of a tensor's dimension
PositiveFloat = Annotated[float, Field(gt=0)]
Norm = Annotated[float, Field(gt=0, allow_inf_nan=True)]  # infinite for none
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Pair = Annotated[list[Size], Field(min_length=2, max_length=2)]
Betas = Annotated[list[Decay], Field(min_length=2, max_length=2)]
Precision = Literal["float32", "bfloat16"]  # of the forward pass; weights, loss and statistics stay in float32
Stage = Literal["pretrain", "finetune", "segment"]  # that trains
STAGES: tuple[Stage, ...] = get_args(Stage)
Overrides = dict[str, dict[str, Any]]
RESCALES = ([4, 2, 1, 0.5], [2, 1, 0.5, 0.25])
SEEDS = range(2**32)  # that NumPy takes
DIGITS_IMAGES = 1797  # that scikit-learn ships
CIFAR10_IMAGES = {"train": 50_000, "test": 10_000}  # as published
# What timm's parser takes: magnitudes and numbers of layers are whole.
RAND_AUGMENT = re.compile(r"rand(-(m\d+|n\d+|p\d(\.\d+)?|mstd\d+(\.\d+)?|mmax\d+|inc[01]|tweights))*")
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Variant = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]  # a dash parts it from its seed


def _each_once(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"{seeds} repeats a seed; give each once")
    return seeds


Seed = Annotated[int, Field(ge=SEEDS.start, lt=SEEDS.stop)]
SeedList = Annotated[list[Seed], Field(min_length=1), AfterValidator(_each_once)]


class Section(BaseModel):
    """A part of params.yaml: unknown keys are refused, and no type is guessed."""

    # As JSON, which has no infinity, it is read back as it was: of clip_gradient, where alone one makes sense.
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )


class Seeds(Section):
    """Seeds of the runs; the first one is the main line."""

    classification: SeedList
    segmentation: SeedList

    @model_validator(mode="after")
    def _segmentation_has_a_backbone(self) -> "Seeds":
        missing = sorted(set(self.segmentation) - set(self.classification))
        if missing:
            raise ValueError(
                f"segmentation seeds {missing} have no pretraining; take them from classification {self.classification}"
            )
        return self


class Sources(Section):
    """Where others' files lie; preparation alone depends on it, so that what has been trained can be taken elsewhere.

    `images` is a folder or archive, null where a library brings them (digits) or downloads them (CIFAR-10); `scenes` a
    folder or archive in ADE20K's layout, null where they are composed or absent.
    """

    images: Annotated[str, Field(min_length=1)] | None
    scenes: Annotated[str, Field(min_length=1)] | None


class ImageSource(Section):
    """Side in pixels, how pixels in [0, 1] are normalised, and the seed of the one split that every run shares."""

    image_size: Size
    classes: Size
    mean: float
    std: PositiveFloat
    split_seed: Count


class KnownImages(ImageSource):
    """A published set of images that is held in memory; `FACTS` are what the recipe can't choose."""

    FACTS: ClassVar[dict[str, int]]
    evaluate_on: Literal["validation", "test"]

    @model_validator(mode="after")
    def _images_are_what_they_are(self) -> Self:
        for key, expected in self.FACTS.items():
            if getattr(self, key) != expected:
                raise ValueError(f"{key} is {getattr(self, key)}, but the source '{self.source}' has {expected}")
        return self


class Digits(KnownImages):
    """scikit-learn's digits."""

    FACTS = {"image_size": 8, "classes": 10}
    source: Literal["digits"]
    channels: Literal[1]
    validation_images: Positive
    test_images: Positive

    @property
    def evaluation_images(self) -> int:
        """Images of the split that is evaluated on."""
        return getattr(self, f"{self.evaluate_on}_images")

    @property
    def training_images(self) -> int:
        """Images that are left for training."""
        return DIGITS_IMAGES - self.validation_images - self.test_images

    @model_validator(mode="after")
    def _some_are_left_for_training(self) -> Self:
        if self.training_images < self.classes:
            raise ValueError(
                f"validation_images + test_images is {self.validation_images + self.test_images}, "
                f"but 'digits' has {DIGITS_IMAGES} images; leave at least {self.classes} for training"
            )
        return self


class Cifar10(KnownImages):
    """CIFAR-10, whose training images are split once.

    `sources.images` is a folder or archive of `train` and `test` with class folders, or a folder with torchvision's
    copy; null lets torchvision download it.
    """

    FACTS = {"image_size": 32, "classes": 10}
    source: Literal["cifar10"]
    channels: Literal[3]
    validation_images: Annotated[int, Field(gt=0, lt=CIFAR10_IMAGES["train"])]

    @property
    def training_images(self) -> int:
        """Images that are left for training."""
        return CIFAR10_IMAGES["train"] - self.validation_images

    @property
    def test_images(self) -> int:
        """Images that CIFAR-10 keeps for the test."""
        return CIFAR10_IMAGES["test"]


class ImageFolder(ImageSource):
    """Images in class folders or tar files (ILSVRC2012's own included), prepared as shards.

    `training_images` and `validation_images` are what the source must hold; of these at most `unreadable_allowed` may
    be broken. `stored_size` is the shorter side in pixels that is stored, null for the originals' own. Larger images,
    and all that are no JPEG files, are stored with JPEG quality `stored_quality` and chroma subsampling
    `stored_chroma`, of which 420 halves both directions. `decode: gpu` decodes, crops and resizes training images on
    the GPU where their augmentation is crop and flip alone; all else the workers decode. `crop_share` is the part of
    the resized image that evaluation crops.
    """

    source: Literal["image_folder"]
    channels: Literal[3]
    training_images: Positive
    validation_images: Positive
    unreadable_allowed: Count
    evaluate_on: Literal["validation"]
    stored_size: Size | None
    stored_quality: Annotated[int, Field(ge=1, le=100)]
    stored_chroma: Literal[444, 420]
    images_per_shard: Positive
    decode: Literal["cpu", "gpu"]
    crop_share: Share

    @model_validator(mode="after")
    def _some_are_left_for_validation(self) -> Self:
        if self.unreadable_allowed >= self.validation_images:
            raise ValueError(
                f"unreadable_allowed {self.unreadable_allowed} must be less than the {self.validation_images} "
                "validation_images"
            )
        return self


IN_MEMORY = (Digits, Cifar10)  # images that are prepared as arrays; others are as shards
Data = Digits | Cifar10 | ImageFolder


class Augmentation(Section):
    """Of training images: area and RandAugment as timm reads them; probabilities of flip and erasing."""

    crop_scale: Annotated[list[Share], Field(min_length=2, max_length=2)]
    interpolation: Literal["bilinear", "bicubic"]
    flip: Probability
    rand_augment: str | None
    random_erasing: Probability

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "Augmentation":
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale {self.crop_scale} must be [least, most]")
        if self.rand_augment is not None and not RAND_AUGMENT.fullmatch(self.rand_augment):
            raise ValueError(f"rand_augment {self.rand_augment!r} must be of timm's form, such as rand-m9-mstd0.5-inc1")
        return self

    @property
    def cropped_only(self) -> bool:
        """Whether it is crop and flip alone."""
        return self.rand_augment is None and not self.random_erasing


class ComposedScenes(Section):
    """Segmentation scenes composed of the digits; sizes in pixels."""

    source: Literal["digits"]
    canvas: Size
    digits_per_scene: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    ink_above: Annotated[int, Field(ge=0, lt=255)]
    training: Positive
    validation: Positive
    seed: Count

    @model_validator(mode="after")
    def _range_is_ordered(self) -> "ComposedScenes":
        if self.digits_per_scene[0] > self.digits_per_scene[1]:
            raise ValueError(f"digits_per_scene {self.digits_per_scene} must be [fewest, most]")
        return self


class SceneFolder(Section):
    """Segmentation data in ADE20K's layout, and how many scenes it must hold."""

    source: Literal["ade20k_layout"]
    training: Positive
    validation: Positive


class SceneAugmentation(Section):
    """Of training scenes: resized to `scale` x a ratio drawn from `ratio`, flipped, photometrically distorted."""

    scale: Pair
    ratio: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)]
    flip: Probability
    photometric_distortion: bool

    @model_validator(mode="after")
    def _range_is_ordered(self) -> "SceneAugmentation":
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio {self.ratio} must be [least, most]")
        return self


class Model(Section):
    """The backbone (paper section 3 and appendix; reference configuration)."""

    patch_size: Size
    width: Size
    depth: Annotated[int, Field(gt=0, le=1000)]
    heads: Size
    mlp: Literal["gelu", "swiglu"]
    mlp_ratio: Annotated[float, Field(gt=0, le=100)]
    layer_scale: PositiveFloat | None
    qk_norm: bool
    rope: bool
    rope_base: PositiveFloat
    rope_rescale: Annotated[float, Field(ge=1)] | None
    absolute_positions: bool
    norm_epsilon: PositiveFloat
    init_std: PositiveFloat
    patch_embedding_init: Literal["truncated_normal", "uniform"]

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "Model":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.rope and (self.width // self.heads) % 4:
            raise ValueError(
                f"width {self.width} / heads {self.heads} is {self.width // self.heads}, "
                "but axial RoPE needs a multiple of 4"
            )
        if not (self.rope or self.absolute_positions):
            raise ValueError("rope and absolute_positions are both off; the model would not know where a patch is")
        return self

    def architecture(self) -> dict[str, Any]:
        """All of it but how weights are drawn, which is of no effect on weights that are there."""
        return self.model_dump(exclude={"init_std", "patch_embedding_init"})


class Objective(Section):
    """Switches of the pretraining objective (Tables 1a and 1c)."""

    causal_mask: bool
    shift: bool
    stop_gradient: bool
    input_mask_ratio: Annotated[float, Field(ge=0, lt=1)]


class Optimization(Section):
    """AdamW and its schedule; learning rate = base_learning_rate x batch_size / 256, cosine to zero."""

    epochs: Positive
    batch_size: Positive
    base_learning_rate: PositiveFloat
    betas: Betas
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_epochs: Count
    clip_gradient: Norm
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    precision: Precision
    augmentation: Augmentation | None

    @model_validator(mode="after")
    def _warmup_fits(self) -> "Optimization":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be smaller than epochs {self.epochs}")
        return self

    def steps_per_epoch(self, images: int) -> int:
        """Steps that see so many images once, rounded down."""
        return images // self.batch_size


class Pretrain(Optimization):
    """Pretraining; the collapse monitor looks at `monitor_images` validation images every `monitor_every` steps."""

    learn_qk_norm_scale: bool
    monitor_every: Positive
    monitor_images: Annotated[int, Field(ge=2)]


class Finetune(Optimization):
    """Classification from `labels` labelled training images."""

    initialisation: Literal["pretrained", "random"]
    labels: Positive
    trained: Literal["all", "head"]
    pool: Literal["mean", "last_token"]
    layer_decay: Share
    layer_decay_end: Share | None
    layer_decay_ramp: Literal["linear", "cosine"]
    layer_warmup: bool
    head_learning_rate: PositiveFloat | None
    freeze_patch_embedding: bool
    attention: Literal["bidirectional", "causal"]
    drop_path: Decay
    label_smoothing: Decay
    mixup: Annotated[float, Field(ge=0)]
    cutmix: Annotated[float, Field(ge=0)]

    @property
    def mixed_together(self) -> int:
        """Images that must stay in one pass: mixup and cutmix mix each with another."""
        return 2 if self.mixup or self.cutmix else 1

    @model_validator(mode="after")
    def _batch_fits(self) -> "Finetune":
        if self.batch_size > self.labels:
            raise ValueError(f"batch_size {self.batch_size} must be at most labels {self.labels}")
        return self


class Segmentation(Section):
    """What a segmentor has beside its backbone, and how it is tested; sizes in pixels."""

    blocks: Annotated[list[Count], Field(min_length=4, max_length=4)]
    rescales: list[float]
    decoder_channels: Size
    pool_scales: list[Size]
    auxiliary_channels: Size
    crop: Size
    stride: Size
    inference: Literal["slide", "whole"]
    test_scale: Pair | None
    test_scales: Annotated[list[PositiveFloat], Field(min_length=1)]
    test_flip: bool

    def least_side(self, patch_size: int) -> int:
        """Pixels of a side of which the decoder's coarsest level has one cell."""
        return math.ceil(patch_size / min(self.rescales))


class Segment(Segmentation):
    """UPerNet on the scenes (MMSegmentation)."""

    initialisation: Literal["pretrained", "random"]
    iterations: Positive
    batch_size: Positive
    learning_rate: PositiveFloat
    betas: Betas
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_iterations: Count
    clip_gradient: Norm
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    precision: Precision
    layer_decay: Share
    drop_path: Decay
    auxiliary_weight: Annotated[float, Field(ge=0)]
    dropout: Decay
    augmentation: SceneAugmentation | None
    cat_max_ratio: Share

    @model_validator(mode="after")
    def _agrees(self) -> "Segment":
        if self.rescales not in RESCALES:
            raise ValueError(f"rescales {self.rescales} must be one of {RESCALES}, which MMSegmentation's neck knows")
        if self.stride > self.crop:
            raise ValueError(f"stride {self.stride} must be at most crop {self.crop}, or pixels are skipped")
        if self.warmup_iterations >= self.iterations:
            raise ValueError(
                f"warmup_iterations {self.warmup_iterations} must be smaller than iterations {self.iterations}"
            )
        return self


class Resources(Section):
    """What a scheduler reserves for one run of a stage: CPUs on each node, memory in MB, time in minutes.

    Preparing images takes as many processes as it has CPUs.
    """

    cpus: Positive
    mem_mb: Positive
    runtime: Positive


class TrainingExecution(Resources):
    """How one training is carried out; a result differs by rounding, and by what each process and pass draws itself.

    `gpus` are those of each of `nodes`, one process for each; where there are none, a node has one process. Each has
    `workers` that read and augment for it (0: it does so itself). `images_per_pass` limits what a process takes at once
    (null: its whole share of a batch); `shard` divides weights and optimizer among the processes (FSDP2); `compile` has
    torch compile the training, which takes seconds to minutes at its start; `recompute_activations` keeps none of the
    blocks' activations for the backward pass.
    """

    nodes: Positive
    gpus: Count
    workers: Count
    images_per_pass: Positive | None
    shard: bool
    compile: bool
    recompute_activations: bool

    @property
    def processes(self) -> int:
        """That share every batch."""
        return self.nodes * max(1, self.gpus)


class Execution(Section):
    """How stages are carried out; nothing here makes a stage stale.

    A checkpoint is written every `checkpoint_minutes`; `watch` names what curves are written for.
    """

    checkpoint_minutes: Annotated[float, Field(ge=0)]
    watch: list[Literal["tensorboard", "dvclive"]]
    prepare: Resources
    pretrain: TrainingExecution
    finetune: TrainingExecution
    segment: TrainingExecution


class FurtherAblations(Section):
    """Variants that only `snakemake ablations_all` runs, with seeds of their own."""

    seeds: SeedList
    pretraining: dict[Variant, Overrides]
    finetuning: dict[Variant, Overrides]
