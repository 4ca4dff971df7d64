"""Reading of checkpoints, whatever their format; safetensors throughout, nothing is ever unpickled."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nepa.conversion.models import Runnable, build_model
from nepa.conversion.reference_config import describe_reference
from nepa.conversion.reference_names import to_timm
from nepa.errors import UserError
from nepa.files import read_json
from nepa.model.description import Description, read_description
from nepa.model.weights import check_weights, read_weights


@dataclass(frozen=True)
class Checkpoint:
    """A model's weights, in timm's names but for a segmentor's; what they belong to; the file they were read from."""

    path: Path
    description: Description
    weights: dict[str, Tensor]

    def model(self) -> Runnable:
        """The model with these weights, in evaluation mode."""
        model = build_model(self.description)
        # Of a backbone the norm before a classifier may be absent, and is not used.
        model.load_state_dict(self.weights, strict=self.description.kind != "backbone")
        return Runnable(model, self.description)


def read_checkpoint(source: Path) -> Checkpoint:
    """Read a checkpoint of the reference, of the pipeline or of timm's format; it says itself which one it is.

    Args:
        source: a safetensors file, or the folder of a single one.

    Raises:
        UserError: it is missing, truncated, no safetensors, or its weights are not those of its model.
    """
    within = list(source.glob("*.safetensors"))
    path = within[0] if len(within) == 1 else source / "model.safetensors" if source.is_dir() else source
    weights, text = read_weights(
        path, absent="name a safetensors file or the folder that holds a single one", damaged="fetch it again"
    )
    if text is not None:
        description = read_description(text, path)
        if description.kind == "backbone":  # timm's format has the norm before a classifier even without one
            weights = {name: weight for name, weight in weights.items() if not name.startswith("fc_norm.")}
        checkpoint = Checkpoint(path, description, weights)
    else:
        checkpoint = _of_reference(path, weights)
    _check(checkpoint)
    return checkpoint


def _of_reference(path: Path, weights: dict[str, Tensor]) -> Checkpoint:
    config = read_json(
        path.parent / "config.json",
        absent="the reference's weights need it beside them",
        damaged="fetch it again",
    )
    head = weights.get("classifier.weight")
    try:
        description = describe_reference(config, 0 if head is None else len(head))
        ours = to_timm(weights)
    except KeyError as error:
        raise UserError(
            f"{path}: {error.args[0]} is unknown or absent; this is no checkpoint of the reference"
        ) from None
    model = description.model
    if model.qk_norm:
        for block in range(model.depth):
            for norm in ("q_norm", "k_norm"):
                ours.setdefault(f"blocks.{block}.attn.{norm}.weight", torch.ones(model.width // model.heads))
                ours[f"blocks.{block}.attn.{norm}.bias"] = torch.zeros(model.width // model.heads)
    return Checkpoint(path, description, ours)


def _check(checkpoint: Checkpoint) -> None:
    with torch.device("meta"):
        wanted = build_model(checkpoint.description).state_dict()
    optional = ("fc_norm.",) if checkpoint.description.kind == "backbone" else ()
    check_weights(checkpoint.path, checkpoint.weights, wanted, optional, "fetch it again")
