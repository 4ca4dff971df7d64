"""What a training starts from, and the checksum of all that it depends on."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.models.eva import Eva

from nepa.data.images import file_checksum
from nepa.errors import UserError
from nepa.model.backbone import load_backbone
from nepa.model.description import Description
from nepa.parameters import Parameters, load_parameters
from nepa.parameters.declared import variants_of
from nepa.parameters.loading import resolve_variant
from nepa.parameters.schema import Stage
from nepa.runs.outcome import Outcome
from nepa.runs.paths import RunName, RunPaths
from nepa.runs.provenance import code_checksum, loaded_sources

UNDO = "put it back, and the same command ends from its last checkpoint, or run it as it is now, which begins anew"
# What a stage trains by, besides what all of them share.
SECTIONS: dict[Stage, tuple[str, ...]] = {
    "pretrain": ("objective", "pretrain"),
    "finetune": ("finetune",),
    "segment": ("scenes", "segment"),
}


@dataclass(frozen=True)
class Start:
    """Where the weights come from: nowhere, if they are random.

    Attributes:
        weights: the file of a pretrained backbone.
        description: what that file says of itself.
    """

    weights: Path | None = None
    description: Description | None = None

    @property
    def status(self) -> Outcome:
        """What the pretraining ended with, where there was one; `ok` without."""
        return self.description.training[-1].status if self.description and self.description.training else "ok"


def load_start(parameters: Parameters, paths: RunPaths, backbone: Eva) -> Start:
    """Load the weights that a fine-tuning or a segmentation starts from, if its `initialisation` is a pretrained one.

    Those of its own variant where it has a pretraining, else those of `full`, both of the same seed.

    Raises:
        UserError: they are absent, truncated, of a model of another shape, or another run's.
    """
    if getattr(parameters, paths.stage).initialisation == "random":
        return Start()
    own = paths.stage == "finetune" and paths.variant in parameters.variants("pretraining")
    source = RunPaths.of(parameters, "pretrain", paths.variant if own else "full", paths.seed)
    weights = source.checkpoints / "backbone.safetensors"
    again = f"`nepa pretrain --variant {source.variant} --seed {source.seed}`"
    description = load_backbone(backbone, weights, parameters, again)
    if description.training:  # what was converted from elsewhere has none
        last = description.training[-1]
        trained = RunName(description.recipe, last.stage, last.variant, last.seed)
        if trained != source.name:
            raise UserError(f"{weights} is of {trained}, not of {source.name}; run {again}")
    return Start(weights, description)


def data_checksum(manifest: dict) -> str:
    """One SHA-256 for a prepared folder."""
    return _checksum(manifest["sha256"])


def identity(parameters: Parameters, paths: RunPaths, data: str, start: Path | None = None) -> str:
    """Checksum of all that a run's weights depend on: parameters, seed, data, code, what it starts from.

    Args:
        parameters: the variant's.
        data: checksum of the data that is read.
        start: the weights that it starts from.
    """
    return _checksum(
        {
            "run": paths.title,
            "parameters": _trained_by(parameters, paths.stage),
            "data": data,
            "start": None if start is None else file_checksum(start),
            "code": code_checksum(),
        }
    )


def refuse_changes(parameters: Parameters, paths: RunPaths) -> None:
    """Check that params.yaml and the sources are still those of the run.

    DVC reads them when a stage has ended, and would record what was edited meanwhile as what its results came from.

    Args:
        parameters: the variant's, as they were when the run began.

    Raises:
        UserError: they are not, and what to do.
    """
    for path, content in loaded_sources().items():
        if not path.exists() or path.read_bytes() != content:
            raise UserError(f"{path} has changed since {paths.title} began; {UNDO}")
    now = load_parameters()
    declared = variants_of(now, paths.stage).get(paths.variant)
    resolved = None if declared is None else resolve_variant(now, declared.group, paths.variant)
    if resolved is None or _trained_by(resolved, paths.stage) != _trained_by(parameters, paths.stage):
        raise UserError(f"params.yaml has changed for {paths.title} since it began; {UNDO}")


def _trained_by(parameters: Parameters, stage: Stage) -> dict[str, Any]:
    return parameters.model_dump(include={"threads", "data", "model", *SECTIONS[stage]})


def _checksum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
