"""Writing results so that an interrupted run leaves none, or all of them."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import Tensor


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write a file or a folder to; renamed to `path` when all went well.

    Raises:
        OSError: it names `path` where the system names no file, as on a full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        if path.is_dir():
            shutil.rmtree(path)
        beside.rename(path)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save's own error hides it
        if not isinstance(cause, OSError):
            raise
        cause.filename = cause.filename or str(path)
        raise cause from None
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys, so that equal results are equal files."""
    with write_atomically(path) as beside:
        beside.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed npz file."""
    with write_atomically(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_weights(path: Path, weights: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write a state dict as safetensors; `description`, of the model they belong to, goes into the file as JSON."""
    # One entry only: safetensors writes several in an order that changes from process to process.
    metadata = {"nepa": json.dumps(description, sort_keys=True)}
    with write_atomically(path) as beside:
        # Not by safetensors' own save_file, which on a full disk raises no OSError.
        stored = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        beside.write_bytes(save(stored, metadata))
