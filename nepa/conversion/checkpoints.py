"""Reading of checkpoints, whatever their format; safetensors throughout, nothing is ever unpickled."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nepa.conversion.models import Runnable, build_model
from nepa.conversion.reference_config import describe_reference
from nepa.conversion.reference_names import to_timm
from nepa.errors import UserError
from nepa.model.description import Description, read_description


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

    Raises:
        UserError: it is missing, truncated, no safetensors, or its weights are not those of its model.
    """
    path = source / "model.safetensors" if source.is_dir() else source
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise UserError(f"{path} not found; name a safetensors file or the folder that holds one") from None
    except SafetensorError as error:
        raise UserError(f"{path} is no complete safetensors file ({error}); fetch it again") from None
    if "nepa" in metadata:
        description = read_description(metadata["nepa"], path)
        if description.kind == "backbone":  # timm's format has the norm before a classifier even without one
            weights = {name: weight for name, weight in weights.items() if not name.startswith("fc_norm.")}
        checkpoint = Checkpoint(path, description, weights)
    else:
        checkpoint = _of_reference(path, weights)
    _check(checkpoint)
    return checkpoint


def _of_reference(path: Path, weights: dict[str, Tensor]) -> Checkpoint:
    config_path = path.parent / "config.json"
    try:
        config = json.loads(config_path.read_text())
    except FileNotFoundError:
        raise UserError(f"{config_path} not found; the reference's weights need it beside them") from None
    except json.JSONDecodeError:
        raise UserError(f"{config_path} is truncated or no JSON; fetch it again") from None
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
    path, description = checkpoint.path, checkpoint.description
    with torch.device("meta"):
        expected = build_model(description).state_dict()
    for name, weight in checkpoint.weights.items():
        shape = tuple(expected[name].shape) if name in expected else "nothing"
        if shape != tuple(weight.shape):
            raise UserError(f"{path}: {name} is {tuple(weight.shape)}, its description wants {shape}; fetch it again")
    optional = ("fc_norm.",) if description.kind == "backbone" else ()
    missing = [name for name in expected if name not in checkpoint.weights and not name.startswith(optional)]
    if missing:
        raise UserError(f"{path} lacks {missing[0]} and {len(missing) - 1} more; fetch it again")
