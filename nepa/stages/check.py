"""Stage `check`: params.yaml is valid. In: params.yaml. Out: data/<recipe>/parameters.valid, always the same."""

from pathlib import Path

from nepa.files import write_atomically
from nepa.parameters import Parameters


def run(parameters: Parameters) -> None:
    """Leave a mark that other stages depend on; its content is constant, so a valid change reruns only what it hits."""
    mark = Path("data") / parameters.recipe / "parameters.valid"
    with write_atomically(mark) as beside:
        beside.write_text(f"{parameters.recipe}: params.yaml is valid\n")
