"""`nepa plan`: what the recipe in place will cost."""

from nepa.parameters import Parameters
from nepa.parameters.schema import STAGES
from nepa.plan.cost import PAPER_TFLOPS, image_bytes, plan, table
from nepa.report.paper import paper


def describe_plan(parameters: Parameters, gpus: int | None, tflops: float | None) -> str:
    """The plan as text.

    Args:
        gpus: that share each batch; default the recipe's for pretraining, one at least.
        tflops: sustained per GPU; default what the paper's wall times amount to.
    """
    rate = tflops or PAPER_TFLOPS
    execution = parameters.execution.pretrain
    gpus = gpus or execution.processes
    stages = plan(parameters, gpus)
    none = "" if execution.gpus else " It asks for none: what it took on a CPU, `nepa status` says."
    source = "as given" if tflops else "what the paper's wall times on H100 amount to"
    lines = [
        f"Recipe {parameters.recipe}, {gpus} GPU{'s' if gpus > 1 else ''} at {rate:g} TFLOP/s each ({source}).{none}",
        "",
        table(stages, gpus, rate).to_markdown(index=False, disable_numparse=True),
        "",
        f"Disk for the prepared images: {image_bytes(parameters) / 1e9:,.1f} GB, and as much in DVC's cache.",
    ]
    if any(getattr(parameters.execution, stage).recompute_activations for stage in STAGES):
        lines.append("Memory is counted as if no activations were recomputed.")
    in_bfloat16 = [stage for stage in STAGES if getattr(parameters, stage).precision == "bfloat16"]
    if not all(getattr(parameters.execution, stage).compile for stage in in_bfloat16):
        lines.append("Uncompiled, autocast keeps values in float32 too: in ViT-B's pretraining an eighth more memory.")
    if stated := paper()["cost"].get(parameters.recipe):
        lines.append(f"The paper's own pretraining: {stated}.")
    return "\n".join(lines)
