"""A model's weights as a file that says what they belong to."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from nepa.files import write_atomically


def write_weights(path: Path, weights: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write a state dict as safetensors; `description`, of the model they belong to, goes into the file as JSON."""
    # One entry only: safetensors writes several in an order that changes from process to process.
    metadata = {"nepa": json.dumps(description, sort_keys=True)}
    with write_atomically(path) as beside:
        # Not by safetensors' own save_file, which on a full disk raises no OSError.
        stored = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        beside.write_bytes(save(stored, metadata))
