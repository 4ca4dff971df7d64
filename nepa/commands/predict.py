"""`nepa predict`: what a fine-tuned checkpoint says of images."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nepa.conversion.checkpoints import Checkpoint, read_checkpoint
from nepa.data.scenes import Classes
from nepa.errors import UserError
from nepa.prediction.classification import Classifier


def run(images: list[Path], source: Path, top: int, folder: Path, as_json: bool) -> int:
    """Print what a checkpoint says of each image; one that cannot be read has its line on stderr, and the next follows.

    Args:
        source: a checkpoint of any format that `nepa convert` reads.
        top: classes that are named.
        folder: for a segmentor's overlays and label maps.
        as_json: print one JSON object a line, for unreadable images too.

    Returns:
        how many images could not be read.

    Raises:
        UserError: the checkpoint cannot be read, or has nothing to predict.
    """
    checkpoint = read_checkpoint(source)
    kind = checkpoint.description.kind
    if kind == "backbone":
        raise UserError(f"{source} is a backbone and has no classes to predict; fine-tune it, or name what was")
    torch.backends.cudnn.allow_tf32 = False  # as in the stages, whose evaluation this is to repeat
    predict = _classifier(checkpoint, top) if kind == "classifier" else _segmentor(checkpoint, folder)
    failed = 0
    for path in images:
        try:
            found = predict(path)
        except UserError as error:
            failed += 1
            print(f"nepa: error: {error}", file=sys.stderr)
            found = {"error": str(error)}
        if as_json:
            print(json.dumps({"image": str(path)} | found), flush=True)
        elif "error" not in found:
            print(_text(path, found), flush=True)
    return failed


def _classifier(checkpoint: Checkpoint, top: int) -> Callable[[Path], dict[str, Any]]:
    classifier = Classifier(checkpoint)

    def predict(path: Path) -> dict[str, Any]:
        likeliest = classifier.probabilities(path)[:top]
        return {"classes": [{"name": name, "probability": share} for name, share in likeliest]}

    return predict


def _segmentor(checkpoint: Checkpoint, folder: Path) -> Callable[[Path], dict[str, Any]]:
    from nepa.prediction.overlay import shares, write_label_map, write_overlay
    from nepa.prediction.segmentation import Segmentor  # which needs what building the model has provided

    segmentor = Segmentor(checkpoint)
    names = checkpoint.description.names
    colours = checkpoint.description.colours or Classes.with_colours(tuple(names)).colours
    taken: set[str] = set()

    def predict(path: Path) -> dict[str, Any]:
        image, labels = segmentor.segment(path)
        # Two folders may each have an image of this name.
        stem = next(s for s in (path.stem, *(f"{path.stem}-{n}" for n in range(2, len(taken) + 3))) if s not in taken)
        taken.add(stem)
        overlay, label_map = folder / f"{stem}.overlay.png", folder / f"{stem}.labels.png"
        write_overlay(image, labels, names, colours, overlay)
        write_label_map(labels, colours, label_map)
        classes = [{"name": names[number], "share": share} for number, share in shares(labels).items()]
        return {"classes": classes, "overlay": str(overlay), "labels": str(label_map)}

    return predict


def _text(path: Path, found: dict[str, Any]) -> str:
    title = f"{path} -> {found['overlay']}" if "overlay" in found else str(path)
    rows = [f"{row.get('probability', row.get('share')):8.1%}  {row['name']}" for row in found["classes"]]
    # A name that is no UTF-8 could not be printed, and the images after it would be left out.
    return "\n".join([title, *rows]).encode(errors="surrogateescape").decode(errors="backslashreplace")
