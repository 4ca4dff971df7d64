"""A model as an ONNX graph, held against torch's own outputs under onnxruntime before it is handed out."""

import json
import logging
from pathlib import Path

import numpy as np
import torch

from nepa.conversion.checkpoints import Checkpoint
from nepa.conversion.loading import input_size
from nepa.errors import UserError

TOLERANCE = 1e-4  # of an output, or of the largest one where that is above 1
OUTPUTS = {"backbone": "features", "classifier": "logits", "segmentor": "logits"}


def write_onnx(checkpoint: Checkpoint, folder: Path, _: Path) -> float:
    """Write `model.onnx`: for any B, from float32 `images` (B, C, H, W) to `Runnable`'s outputs.

    Its metadata holds the checkpoint's description under `nepa`.

    Returns:
        the largest difference between onnxruntime's outputs and torch's, as a part of the largest output above 1.

    Raises:
        UserError: that is above the tolerance.
    """
    import onnxruntime

    description = checkpoint.description
    model = checkpoint.model()
    side = input_size(description)
    images = torch.randn(3, description.channels, side, side, generator=torch.Generator().manual_seed(0))
    for name in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)  # else each node that cannot be simplified has a line
    program = torch.onnx.export(
        model,
        (images[:2],),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=[OUTPUTS[description.kind]],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
    )
    program.model.metadata_props["nepa"] = json.dumps(description.content(), sort_keys=True)
    program.save(folder / "model.onnx")

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    differences = []
    for batch in (images, images[:1]):
        with torch.no_grad():
            expected = model(batch).numpy()
        found = session.run(None, {"images": batch.numpy()})[0]
        differences.append(float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max())))
    difference = max(differences)
    if not difference <= TOLERANCE:
        raise UserError(
            f"{checkpoint.path}: the ONNX graph's outputs differ from torch's by {difference:.1e}, more than "
            f"{TOLERANCE:.0e}; nothing is written"
        )
    return difference
