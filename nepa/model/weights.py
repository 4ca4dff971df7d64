"""A model's weights as a safetensors file that says what they belong to; nothing is ever unpickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nepa.errors import UserError
from nepa.files import write_atomically


def write_weights(path: Path, weights: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write a state dict as safetensors; `description`, of the model they belong to, goes into the file as JSON."""
    # One entry only: safetensors writes several in an order that changes from process to process.
    metadata = {"nepa": json.dumps(description, sort_keys=True)}
    with write_atomically(path) as beside:
        # Not by safetensors' own save_file, which on a full disk raises no OSError.
        stored = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        beside.write_bytes(save(stored, metadata))


def read_weights(path: Path, *, absent: str, damaged: str) -> tuple[dict[str, Tensor], str | None]:
    """The weights in a safetensors file, and its description as JSON, if it has one.

    Args:
        absent, damaged: what to do where there is no file, or none that is whole.

    Raises:
        UserError: there is none.
    """
    try:
        with safe_open(path, "pt") as file:
            description = (file.metadata() or {}).get("nepa")
            return {name: file.get_tensor(name) for name in file.keys()}, description  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        if path.exists():  # as safetensors says of what it may not read
            raise UserError(f"{path} cannot be read; mend its permissions") from None
        raise UserError(f"{path} not found; {absent}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); name a safetensors file") from None
    except SafetensorError as error:
        raise UserError(f"{path} is no complete safetensors file ({error}); {damaged}") from None


def check_weights(
    path: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], optional: tuple[str, ...], remedy: str
) -> None:
    """Compare names and shapes with those of the model that the weights are for.

    Args:
        path: where they came from.
        wanted: the model's.
        optional: beginnings of names that may be absent.

    Raises:
        UserError: a weight is missing, or one too many, or has another shape.
    """
    for name, weight in weights.items():
        shape = tuple(wanted[name].shape) if name in wanted else "nothing"
        if shape != tuple(weight.shape):
            raise UserError(f"{path}: {name} is {tuple(weight.shape)}, its description wants {shape}; {remedy}")
    missing = [name for name in wanted if name not in weights and not name.startswith(optional)]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise UserError(f"{path} lacks {missing[0]}{more}; {remedy}")
