"""A stage that gets a signal in the midst of its training."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from nepa.stages import finetune, pretrain


@contextmanager
def signalled(stage: str, step: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """The process gets a signal while it takes the given step."""
    if stage == "segment":
        from nepa.segmentation.segmentor import UPerNet as model  # MMSegmentation is slow to import
    else:
        model = {"pretrain": pretrain.Pretraining, "finetune": finetune.Finetuning}[stage]
    forward, taken = model.forward, 0

    def heard(self, *arguments, **options):  # noqa: ANN001, ANN002, ANN003, ANN202 - stands in for the method
        nonlocal taken
        taken += options.get("mode") == "loss"
        if taken == step:
            signal.raise_signal(number)
        return forward(self, *arguments, **options)

    model.forward = heard
    try:
        yield
    finally:
        model.forward = forward
