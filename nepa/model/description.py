"""What a checkpoint says of itself, in its own file, so that it can be built, run and judged without params.yaml."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from nepa.errors import UserError
from nepa.parameters import Parameters
from nepa.parameters.schema import LARGEST, Model, PositiveFloat, Section, Segment, Segmentation, Share, Size, Stage
from nepa.runs.outcome import Outcome
from nepa.runs.paths import RunPaths


class Training(Section):
    """One stage that the weights went through: its run, how it ended, the data's source and facts, the settings."""

    stage: Stage
    variant: str
    seed: int
    status: Outcome
    source: str
    data: dict[str, Any]
    settings: dict[str, Any]


class Results(Section):
    """metrics.json and run.json of the last stage."""

    metrics: dict[str, Any]
    run: dict[str, Any]


class Description(Section):
    """A checkpoint's model, input and outputs, and where it comes from.

    Attributes:
        image_size: side of the input in pixels.
        classes: of the classifier or segmentor; 0 for a backbone without either.
        mean, std: of pixels in [0, 1], each the same for all channels.
        crop_share: part of the resized image that the classifier is shown.
        attention, pool: what the classifier was trained with.
        class_names: in the order of the outputs; None where they are not known.
        colours: of the classes, RGB; None but for segmentors.
        segmentation: None but for segmentors.
        recipe: that it was trained by; None where it was not trained by this project.
        training: the stages behind the weights, oldest first.
        results: of the last stage, in what `nepa convert` wrote of a checkpoint of the pipeline.
        reference: config.json of the reference implementation, if it came from there.
    """

    model: Model
    image_size: Size
    channels: Size
    classes: Annotated[int, Field(ge=0, le=LARGEST)]
    mean: float
    std: PositiveFloat
    crop_share: Share = 1.0
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    pool: Literal["mean", "last_token"] = "mean"
    class_names: list[str] | None = None
    colours: list[list[int]] | None = None
    segmentation: Segmentation | None = None
    recipe: str | None = None
    training: list[Training] = []
    results: Results | None = None
    reference: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _every_class_is_named(self) -> "Description":
        for key in ("class_names", "colours"):
            values = getattr(self, key)
            if values is not None and len(values) != self.classes:
                raise ValueError(f"{key} are {len(values)}, but classes is {self.classes}")
        return self

    @property
    def kind(self) -> Literal["backbone", "classifier", "segmentor"]:
        """What the weights are."""
        if self.segmentation is not None:
            return "segmentor"
        return "classifier" if self.classes else "backbone"

    @property
    def names(self) -> list[str]:
        """A name for every class, made up where none is known."""
        return self.class_names or [f"class {number}" for number in range(self.classes)]

    def content(self) -> dict[str, Any]:
        """As JSON can hold it; what has its default is left out."""
        return self.model_dump(exclude_defaults=True)


def describe(parameters: Parameters, classes: int = 0, **more: Any) -> Description:
    """The description of a model of these parameters; `more` are further fields of it."""
    data = parameters.data
    return Description(
        model=parameters.model,
        image_size=data.image_size,
        channels=data.channels,
        classes=classes,
        mean=data.mean,
        std=data.std,
        crop_share=getattr(data, "crop_share", 1.0),  # what has no such setting is shown whole
        **more,
    )


def describe_run(
    parameters: Parameters,
    paths: RunPaths,
    status: Outcome,
    start: Description | None = None,
    names: Sequence[str] = (),
    colours: Sequence[tuple[int, int, int]] | None = None,
) -> Description:
    """The description of what a run of `pretrain`, `finetune` or `segment` has trained.

    Args:
        status: that it ended with.
        start: of the backbone that it started from; None for random weights.
        names: of the classes.
        colours: of the classes, RGB.
    """
    finetune, segment = parameters.finetune, parameters.segment
    images, scenes = (parameters.data, parameters.sources.images), (parameters.scenes, parameters.sources.scenes)
    sections, (data, path), more = {
        "pretrain": ([parameters.objective, parameters.pretrain], images, {}),
        "finetune": ([finetune], images, {"attention": finetune.attention, "pool": finetune.pool}),
        "segment": ([segment], scenes, {"segmentation": segmentation_of(segment)}),
    }[paths.stage]
    settings = {key: value for section in sections for key, value in section.model_dump().items()}
    facts = _facts(data, path)
    run = Training(
        stage=paths.stage,
        variant=paths.variant,
        seed=paths.seed,
        status=status,
        source=facts.pop("source"),
        data=facts,
        settings=settings,
    )
    return describe(
        parameters,
        len(names),
        class_names=list(names) or None,
        colours=colours and [list(colour) for colour in colours],
        recipe=parameters.recipe,
        training=[*(start.training if start else []), run],
        **more,
    )


def segmentation_of(settings: Segment) -> Segmentation:
    """The part of the settings that is needed after training."""
    return Segmentation(**settings.model_dump(include=set(Segmentation.model_fields)))


def read_description(text: str, path: Path) -> Description:
    """What the file at `path` says of itself.

    Raises:
        UserError: it is no JSON, or lacks something, or has what this version does not know.
    """
    try:
        return Description.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise UserError(
            f"{path}: its description is not one that this version can read ({where}: {first['msg']}); make it anew"
        ) from None


def _facts(section: Section, path: str | None) -> dict[str, Any]:
    # A checkpoint that is given away must not tell where its maker's files lie.
    named = {} if path is None else {"path": Path(path).name}
    # What follows from the source is no setting.
    return (
        section.model_dump()
        | named
        | {name: getattr(section, name) for name in ("training_images", "test_images") if hasattr(section, name)}
    )
