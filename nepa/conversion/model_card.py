"""The model card beside an exported checkpoint: README.md, in the form that model hubs read."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from nepa.conversion.checkpoints import Checkpoint
from nepa.conversion.loading import how_to_call, how_to_load, input_size
from nepa.data.images import file_checksum
from nepa.model.description import Description, Results, Training

NOT_KNOWN = "not known"
TASKS = {
    "backbone": "image-feature-extraction",
    "classifier": "image-classification",
    "segmentor": "image-segmentation",
}
SUMMARIES = {
    "backbone": "A vision transformer, pretrained by next-embedding prediction; it has no classifier.",
    "classifier": "An image classifier: a vision transformer with a linear head.",
    "segmentor": "A semantic segmentor: UPerNet over a vision transformer.",
}
SOURCES = {
    "digits": "scikit-learn's 1,797 handwritten digits of 8x8 pixels (UCI, optical recognition of handwritten digits)",
    "cifar10": "CIFAR-10's photographs of 32x32 pixels in ten classes (Krizhevsky, 2009)",
    "image_folder": "class folders",
    "ade20k_layout": "scenes in ADE20K's layout",
}
METRICS = {
    "top1": "top-1 accuracy, %",
    "mIoU": "mIoU, %",
    "aAcc": "accuracy of the pixels, %",
    "mAcc": "mean accuracy of the classes, %",
    "evaluation_loss": "loss",
    "identity_cosine": "cosine of the output with its own patch's embedding",
    "mean_pairwise_cosine": "mean cosine of any two patches' embeddings",
    "effective_rank": "effective rank of the embeddings",
}
SHOWN_CLASSES = 12
RUN = {
    "command": "command",
    "hardware": "hardware",
    "finished": "finished",
    "code": "checksum of the code",
    "data": "checksum of the data",
}


def write_model_card(checkpoint: Checkpoint, folder: Path, target: Path, form: str, difference: float | None) -> None:
    """Write README.md into `folder`, of what else lies in it.

    Args:
        target: where the folder will be.
        form: that the checkpoint was written in.
        difference: between onnxruntime's outputs and torch's, where the form is `onnx`.
    """
    description = checkpoint.description
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(files("nepa.conversion").joinpath("model_card.md.j2").read_text())
    results = _results(description)
    checksums = {f"`{path.name}`": file_checksum(path) for path in sorted(folder.iterdir())}
    card = template.render(
        NOT_KNOWN=NOT_KNOWN,
        front_matter=_front_matter(description, form),
        title=_title(description),
        summary=SUMMARIES[description.kind],
        kind=description.kind,
        status=description.training[-1].status if description.training else NOT_KNOWN,
        facts=_facts(checkpoint, difference),
        loading=how_to_load(description, target, form),
        calling=how_to_call(description, form),
        training=[run.model_dump() | {"data": _data_of(run)} for run in description.training],
        recipe=description.recipe,
        metrics=_metrics(description),
        measured_on=_measured_on(description),
        run={name: results.run.get(key, NOT_KNOWN) for key, name in RUN.items()},
        licence=_licence(description),
        limits=_limits(description),
        checksums=checksums | {"what it was converted from": file_checksum(checkpoint.path)},
    )
    (folder / "README.md").write_text(card)


def _title(description: Description) -> str:
    if not description.training:
        return f"NEPA, {description.kind}"
    run = description.training[-1]
    return f"NEPA, {description.kind}: {description.recipe}, {run.variant}, seed {run.seed}"


def _front_matter(description: Description, form: str) -> str:
    found = _results(description).metrics
    results = [
        EvalResult(
            task_type=TASKS[description.kind],
            dataset_type=_data(description)[-1],
            dataset_name=_measured_on(description),
            metric_type=metric,
            metric_value=round(found[name], 2),
        )
        for name, metric in (("top1", "accuracy"), ("mIoU", "mean_iou"))
        if isinstance(found.get(name), float)  # a training that diverged has none
    ]
    return ModelCardData(
        license=_weights_licence(description) or "unknown",
        library_name=form if form in ("timm", "onnx") else None,
        pipeline_tag=TASKS[description.kind],
        tags=["nepa", "arxiv:2512.16922"],
        model_name=_title(description),
        eval_results=results or None,
    ).to_yaml()


def _facts(checkpoint: Checkpoint, difference: float | None) -> dict[str, Any]:
    description, model = checkpoint.description, checkpoint.description.model
    names = description.class_names
    shown = ", ".join(names[:SHOWN_CLASSES]) + (", ..." if len(names) > SHOWN_CLASSES else "") if names else None
    facts = {
        "parameters": f"{sum(weight.numel() for weight in checkpoint.weights.values()):,}",
        "model": ", ".join(f"{name} {value}" for name, value in model.model_dump().items()),
    }
    if description.kind != "backbone":
        facts["classes"] = f"{description.classes}: {shown or 'their names are ' + NOT_KNOWN}"
    if description.kind == "classifier":
        facts["attention, pooling"] = f"{description.attention}, {description.pool}"
    if difference is not None:
        facts["outputs"] = f"within {difference:.1e} of torch's under onnxruntime, on random images when it was written"
    return facts


def _results(description: Description) -> Results:
    """Those that are known: of weights whose training is not, none are."""
    nothing = Results(metrics={}, run={})
    return description.results or nothing if description.training else nothing


def _data(description: Description) -> list[str]:
    """Names of the data behind the weights, without repetition."""
    return list(dict.fromkeys(run.data.get("path", run.source) for run in description.training))


def _data_of(run: Training) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in run.data.items())
    return f"{SOURCES.get(run.source, run.source)} ({facts})"


def _metrics(description: Description) -> dict[str, str]:
    found = _results(description).metrics
    shown = {text: f"{found[name]:.4g}" for name, text in METRICS.items() if isinstance(found.get(name), float)}
    return shown | ({"status": found["status"]} if "status" in found else {})


def _measured_on(description: Description) -> str:
    if not description.training:
        return NOT_KNOWN
    run = description.training[-1]
    if run.stage == "segment":
        return f"{run.data.get('validation', NOT_KNOWN)} validation scenes"
    if run.stage == "pretrain":
        asked, there = run.settings.get("monitor_images"), run.data.get("validation_images")
        return f"the first {min(asked, there) if asked and there else NOT_KNOWN} validation images"
    split = run.data.get("evaluate_on", NOT_KNOWN)
    return f"{run.data.get(f'{split}_images', NOT_KNOWN)} {split} images"


def _weights_licence(description: Description) -> str | None:
    sources = {run.source for run in description.training}
    return "mit" if sources == {"digits"} else None


def _licence(description: Description) -> str:
    code = "The code that made them is under the MIT licence."
    if _weights_licence(description):
        return (
            "The weights are under the MIT licence, as the code that made them. The digits that they were trained on "
            "are from the UCI machine learning repository, under CC BY 4.0."
        )
    if description.training:
        return f"The licence of the weights, and what that of the data lets them be used for, is {NOT_KNOWN}. {code}"
    return f"The licence of the weights is {NOT_KNOWN}: it is that of whoever trained them."


def _limits(description: Description) -> list[str]:
    limits = []
    if not description.training:
        limits.append(f"How the weights were made is {NOT_KNOWN}, so what they are bad at is too.")
        limits.append(f"Whether the training collapsed or diverged is {NOT_KNOWN}.")
    else:
        limits.append(
            f"Trained on {' and '.join(_data(description))} alone. On other images nothing was measured: neither "
            "accuracy nor robustness, nor differences between groups of people."
        )
    if "digits" in {run.source for run in description.training}:
        limits.append("A miniature, to study the method: it knows light digits on dark ground, 8 pixels high, alone.")
    side = input_size(description)
    limits.append(f"Made for {side}x{side} pixels at a time; what it does at other sizes was not measured.")
    if description.kind == "classifier":
        limits.append(
            "Every image gets one of the classes, also one that shows none; probabilities are not calibrated."
        )
    if description.kind == "segmentor":
        limits.append("Every pixel gets one of the classes, also where training had left pixels unlabelled.")
    if description.kind == "backbone":
        limits.append("No classifier: fine-tune it, or train a head on its features, before it can say anything.")
    return limits
