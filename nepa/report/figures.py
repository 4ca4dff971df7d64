"""The report's pictures, from the histories and samples that the stages wrote."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display library

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.colors import BoundaryNorm, ListedColormap  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

from nepa.objective.collapse import COLLAPSED_BELOW  # noqa: E402
from nepa.report.collect import Run  # noqa: E402

# Okabe and Ito's colours, told apart by colour-blind readers; a variant keeps its colour in every figure.
COLOURS = {
    "full": "#0072B2",
    "no_causal_mask": "#E69F00",
    "no_shift": "#009E73",
    "no_stop_gradient": "#D55E00",
    "from_scratch": "#000000",
    "from_scratch_long": "#888888",
}
OTHERS = ("#CC79A7", "#56B4E9", "#F0E442")
PIXELS_PER_INCH = 130
LEGEND_UP_TO = 20  # classes: more would be no legend
plt.rcParams |= {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}


def colour(variant: str) -> str:
    """The colour of a variant, the same in every figure."""
    return COLOURS.get(variant) or OTHERS[sum(map(ord, variant)) % len(OTHERS)]


def draw_figures(runs: list[Run], folder: Path) -> list[str]:
    """Draw what one recipe's runs allow into `folder`; returns the names of the files."""
    figures: dict[str, Figure] = {}
    if any(run.stage in ("pretrain", "finetune") for run in runs):
        figures["curves.png"] = draw_curves(runs)
    if any(run.stage == "segment" for run in runs):
        figures["segmentations.png"] = draw_segmentations(runs)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        # No date and no version inside: equal results are equal files.
        figure.savefig(folder / name, dpi=PIXELS_PER_INCH, metadata={"Software": None})
        plt.close(figure)
    return list(figures)


def draw_curves(runs: list[Run]) -> Figure:
    """After the paper's Fig. 3: loss and relative spread in pretraining, accuracy in fine-tuning, by variant."""
    figure, (loss, spread, accuracy) = plt.subplots(1, 3, figsize=(12, 4.4), layout="constrained")
    pretrained = _variants(runs, "pretrain")
    for variant in pretrained:
        _curve(loss, runs, "pretrain", variant, "loss")
        _curve(spread, runs, "pretrain", variant, "relative_spread")
    for variant in _variants(runs, "finetune"):
        if not variant.endswith("_long"):  # of another length
            _curve(accuracy, runs, "finetune", variant, "top1")
    loss.set(title="Pretraining loss", xlabel="step", ylabel="negative cosine", ylim=(-1.03, None))
    spread.set(title="Spread of the embeddings", xlabel="step", ylabel="relative spread", yscale="log")
    spread.axhline(COLLAPSED_BELOW, color="0.5", linestyle=":", linewidth=1)
    spread.annotate(
        "collapsed below", (0.98, COLLAPSED_BELOW), xycoords=("axes fraction", "data"), ha="right", va="bottom",
        color="0.35", fontsize=9,
    )  # fmt: skip
    accuracy.set(title="Fine-tuning, validation images", xlabel="step", ylabel="top-1 (%)", ylim=(0, 100))
    handles = {label: handle for axes in (loss, accuracy) for handle, label in zip(*_legend(axes), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def draw_segmentations(runs: list[Run]) -> Figure:
    """Scenes, their truth and what each variant's first seed predicts."""
    first = {run.variant: run for run in reversed(runs) if run.stage == "segment"}
    variants = [v for v in _variants(runs, "segment") if (first[v].folder / "samples.npz").exists()]
    samples = {}
    for variant in variants:
        with np.load(first[variant].folder / "samples.npz") as file:
            samples[variant] = {name: file[name] for name in file.files}
    shown = next(iter(samples.values()))
    rows, classes = sum(name.startswith("image_") for name in shown), len(shown["names"])
    columns = [("scene", [shown[f"image_{row}"] for row in range(rows)])]
    columns.append(("truth", [shown[f"truth_{row}"] for row in range(rows)]))
    for variant in variants:
        predictions = [samples[variant][f"prediction_{row}"] for row in range(rows)]
        columns.append((f"{variant}, seed {first[variant].seed}", predictions))
    figure, axes = plt.subplots(rows, len(columns), figsize=(2.1 * len(columns) + 1.6, 2.1 * rows), squeeze=False,
                                layout="constrained")  # fmt: skip
    palette = ListedColormap(shown["colours"] / 255)
    norm = BoundaryNorm(np.arange(classes + 1) - 0.5, classes)
    for column, (title, pictures) in enumerate(columns):
        axes[0, column].set_title(title, fontsize=10)
        for row in range(rows):
            panel = axes[row, column]
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
            if column == 0:
                panel.imshow(pictures[row], cmap="gray", vmin=0, vmax=255)
            else:
                unlabelled = shown[f"truth_{row}"] >= classes
                panel.imshow(np.ma.array(pictures[row], mask=unlabelled), cmap=palette, norm=norm)
                panel.set_facecolor("0.93")
    if classes <= LEGEND_UP_TO:
        names = enumerate(shown["names"])
        handles = [Patch(facecolor=palette(index), edgecolor="0.4", label=str(name)) for index, name in names]
        figure.legend(handles=handles, loc="outside right center", fontsize=9)
    return figure


def _variants(runs: list[Run], stage: str) -> list[str]:
    found = {run.variant for run in runs if run.stage == stage}
    known = [variant for variant in COLOURS if variant in found]
    return known + sorted(found - set(known))


def _curve(axes: Axes, runs: list[Run], stage: str, variant: str, column: str) -> None:
    histories = [run.history() for run in runs if (run.stage, run.variant) == (stage, variant)]
    table = pd.concat([history.set_index("step")[column] for history in histories], axis=1)
    mean = table.mean(axis=1)
    # Dashed lines lie over others that they would hide.
    style = "--" if variant in ("no_shift", "from_scratch") else "-"
    axes.plot(mean.index, mean, style, color=colour(variant), label=variant, linewidth=1.6)
    axes.fill_between(mean.index, table.min(axis=1), table.max(axis=1), color=colour(variant), alpha=0.15, linewidth=0)


def _legend(axes: Axes) -> tuple[list, list[str]]:
    return axes.get_legend_handles_labels()
