"""How an exported checkpoint is loaded and called, as its model card says it."""

from inspect import signature
from pathlib import Path
from typing import Any

from nepa.data.transforms import shorter_side
from nepa.model.architecture import backbone_arguments
from nepa.model.description import Description
from nepa.model.registration import INPUT, SIZES


def timm_name(description: Description) -> str:
    """The registered model of these sizes; the first one where none has them."""
    arguments = timm_arguments(description)
    return next((name for name, sizes in SIZES.items() if sizes.items() <= arguments.items()), next(iter(SIZES)))


def timm_arguments(description: Description) -> dict[str, Any]:
    """What `timm.create_model` must be told to build a model, whatever the registered model's own sizes."""
    options = description.model.architecture()
    sizes = {"embed_dim": options.pop("width"), "depth": options.pop("depth"), "num_heads": options.pop("heads")}
    return sizes | {"img_size": description.image_size, "in_chans": description.channels} | options


def input_size(description: Description) -> int:
    """Side in pixels of what the model sees at a time."""
    return description.segmentation.crop if description.kind == "segmentor" else description.image_size


def how_to_load(description: Description, folder: Path, form: str) -> str:
    """A paragraph of Markdown with the code that loads a folder of the form."""
    return {"timm": _timm, "reference": _reference, "mmsegmentation": _mmsegmentation, "onnx": _onnx}[form](
        description, folder.as_posix()
    )


def how_to_call(description: Description, form: str) -> str:
    """A paragraph on what goes in and what comes out."""
    channels, mean, std = description.channels, description.mean, description.std
    side = input_size(description)
    colour = "grey" if channels == 1 else "RGB"
    text = (
        f"Input: `(B, {channels}, {side}, {side})`, {colour} pixels in [0, 1], less {mean}, over {std}; "
        f"{_resizing(description)}. "
    )
    if form == "mmsegmentation" and description.kind != "segmentor":
        width, patch = description.model.width, description.model.patch_size
        return text + (
            f"Output: that of four blocks, each `(B, {width}, H / {patch}, W / {patch})`, for a neck and a decode "
            "head; a classifier's own head is left out."
        )
    if description.kind == "classifier":
        return text + f"Output: logits `(B, {description.classes})`. " + _attention(description, form)
    if description.kind == "segmentor":
        return text + f"Output: logits `(B, {description.classes}, H, W)`."
    output = "Output of `model.forward_features`" if form == "timm" else "Output"  # the model's own call pools
    return text + (
        f"{output}: features `(B, 1 + {(side // description.model.patch_size) ** 2}, {description.model.width})`, BOS "
        "first. Pretraining attends causally or not, as its settings say; here attention is bidirectional, as the "
        "paper fine-tunes it."
    )


def _resizing(description: Description) -> str:
    settings = description.segmentation
    if settings is None:
        shorter = shorter_side(description.image_size, description.crop_share)
        return f"the image's shorter side was resized to {shorter} (bicubic), and the centre was cut out"
    scale = "as they are" if settings.test_scale is None else f"resized to fit {settings.test_scale}"
    if settings.inference == "whole":
        return f"images are {scale} and tested whole"
    return f"images are {scale} and tested in windows of {settings.crop} at a stride of {settings.stride}"


def _attention(description: Description, form: str) -> str:
    if form == "onnx" or (description.attention, description.pool) == ("bidirectional", "mean"):
        return ""
    causal = description.attention == "causal"
    call = f"model.forward_features(images{', is_causal=True' if causal else ''})"
    pooled = f"model.forward_head({call}{'[:, [0, -1]]' if description.pool == 'last_token' else ''})"
    return f"It was fine-tuned otherwise than timm calls it: the logits are `{pooled}` of timm's model."


def _timm(description: Description, folder: str) -> str:
    name = timm_name(description)
    defaults = {key: parameter.default for key, parameter in signature(backbone_arguments).parameters.items()}
    defaults |= INPUT | SIZES[name] | {"in_chans": 3, "num_classes": 1000}
    arguments = timm_arguments(description) | {"num_classes": description.classes}
    extra = "".join(f"\n    {key}={value!r}," for key, value in arguments.items() if value != defaults[key])
    return f"""```python
import nepa, timm

model = timm.create_model("local-dir:{folder}", pretrained=True)
```

The folder's `config.json` says the rest. With the file alone:

```python
import nepa, timm

model = timm.create_model(
    "{name}",
    pretrained=False,
    checkpoint_path="{folder}/model.safetensors",{extra}
)
```

Add `num_classes`, `img_size`, `dynamic_img_size=True` or `features_only=True` as with any model of timm."""


def _reference(description: Description, folder: str) -> str:
    kind = "ForImageClassification" if description.classes else "ForPreTraining"
    return f"""With the reference implementation's code: `ViTNepa{kind}.from_pretrained("{folder}")`.
Or with timm, after `nepa convert {folder} NEW --to timm`."""


def _mmsegmentation(description: Description, folder: str) -> str:
    if description.kind == "segmentor":
        return f"""```python
import nepa.segmentation
from mmseg.apis import inference_model, init_model

model = init_model("{folder}/segmentor.json", "{folder}/segmentor.pth", device="cpu")
```

Then `inference_model(model, "image.png").pred_sem_seg.data`."""
    return f"""Name it under `_base_` of a config of MMSegmentation, which adds neck and heads. By itself:

```python
import nepa.segmentation
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

init_default_scope("mmseg")
backbone = MODELS.build(Config.fromfile("{folder}/backbone.json").model.backbone)
backbone.init_weights()
```"""


def _onnx(description: Description, folder: str) -> str:
    side, windows = input_size(description), description.kind == "segmentor"
    return f"""```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{folder}/model.onnx", providers=["CPUExecutionProvider"])
images = np.zeros((1, {description.channels}, {side}, {side}), np.float32)
outputs = session.run(None, {{"images": images}})[0]
```

Any number of images at a time, of this size{", which is one window of the test" if windows else ""}."""
