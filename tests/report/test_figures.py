"""The figures: of any size of image and number of classes, one style per variant, and honest about what is absent."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from report_runs import pretraining_samples, segmentation_samples, write_run

from nepa.parameters import load_parameters
from nepa.report.collect import Run, collect_runs
from nepa.report.figures import draw_figures
from nepa.report.figures.ablations import draw_ablations
from nepa.report.figures.confusion import draw_confusion
from nepa.report.figures.curves import draw_curves
from nepa.report.figures.seeds import draw_seeds
from nepa.report.figures.segmentations import draw_segmentations
from nepa.report.figures.stages import draw_stages
from nepa.report.figures.style import VARIANTS, line_of
from nepa.report.figures.triplets import draw_triplets
from nepa.workflow.ledger import StageGroup


def found() -> list[Run]:
    return collect_runs(load_parameters())


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


@pytest.mark.filterwarnings("error")
def test_natural_images_many_patches_and_many_classes(project: Path) -> None:
    confusion = np.eye(100, dtype=int).tolist()
    for seed in (0, 1):
        folder = write_run("pretrain", "full", seed)
        np.savez(folder / "samples.npz", **pretraining_samples(side=96, channels=3, grid=16))
        write_run("finetune", "full", seed, confusion=confusion, class_names=[f"class {n}" for n in range(100)])
    for variant in ("full", "from_scratch"):
        folder = write_run("segment", variant, 0)
        np.savez(folder / "samples.npz", **segmentation_samples(90, 120, 3, 150))
    drawn = draw_figures(found(), Path("figures"), [])
    assert drawn == ["curves", "triplets", "seeds", "confusion", "segmentations", "cost"]
    for name in drawn:
        with Image.open(f"figures/{name}.png") as picture:
            assert picture.width > 1000
    legend = draw_segmentations(found()).legends[0]
    assert len(legend.get_texts()) == 20


def test_a_variant_looks_the_same_in_every_figure(project: Path) -> None:
    for variant in ("full", "no_shift", "no_stop_gradient"):
        write_run("pretrain", variant, 0)
        write_run("finetune", variant, 0)
    for figure in (draw_curves(found()), draw_ablations(found())):
        lines = [line for axes in figure.axes for line in axes.lines if line.get_label() in VARIANTS]
        assert len({line.get_label() for line in lines}) == 3
        for line in lines:
            assert (to_hex(line.get_color()).upper(), line.get_linestyle()) == VARIANTS[line.get_label()]
    assert len(set(VARIANTS.values())) == len({colour for colour, _ in VARIANTS.values()}) == len(VARIANTS)
    # One that no figure knows has a style by its name alone.
    others = [line_of(name) for name in ("masked", "wide", "deep", "narrow", "masked")]
    assert others[0] == others[-1] and len({tuple(line.values()) for line in others}) > 2
    assert not {line["color"] for line in others} & set(dict(VARIANTS.values()))


def test_figure_7_shows_what_the_loss_does_not_tell(project: Path) -> None:
    """Embeddings of one direction are no distance apart; those on a line are, but have no rank."""
    write_run("pretrain", "full", 0)
    loss, distance, rank = ([*axes.lines[0].get_ydata()] for axes in draw_curves(found()).axes)
    assert (loss, distance, rank) == ([-0.5, -0.9], [0.5, 0.75], [2, 3])


def test_a_pair_that_has_not_run_has_no_panel(project: Path) -> None:
    for variant in ("full", "no_stop_gradient"):
        write_run("pretrain", variant, 0)
    write_run("pretrain", "layer_scale", 0, root="results/further_ablations")
    figure = draw_ablations(found())
    assert [axes.get_title() for axes in figure.axes] == ["with and without stop-gradient"]
    assert [len(axes.lines) for axes in figure.axes] == [2]


def test_triplets_of_every_variant_that_did_not_diverge(project: Path) -> None:
    write_run("pretrain", "full", 0, status="diverged")
    write_run("pretrain", "full", 1)
    write_run("pretrain", "no_shift", 0, status="diverged")
    figure = draw_triplets(found())
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert "full\nseed 1" in labels and not any("no_shift" in label for label in labels)
    # All three images with both queries, for a variant that stands alone; what is hidden from the query is masked.
    maps = [axes.images[0].get_array() for axes in figure.axes if axes.get_xlabel().startswith("BOS ")]
    assert len(maps) == 6 and sorted(int(m.mask.sum()) for m in maps) == [3, 3, 3, 7, 7, 7]


def test_every_seed_has_its_dot(project: Path) -> None:
    for variant, values in (("full", (80.0, 50.0)), ("no_shift", (70.0, None))):
        for seed, top1 in enumerate(values):
            write_run("finetune", variant, seed, top1=top1)
    dots, stroke, of_one, _ = draw_seeds(found()).axes[0].lines
    assert dots.get_xdata().tolist() == [80, 50] and stroke.get_xdata() == [65]
    assert of_one.get_xdata().tolist() == [70]  # the other diverged


def test_a_variant_of_which_every_seed_diverged_is_named_among_the_others(project: Path) -> None:
    write_run("finetune", "no_shift", 0, top1=None)
    assert draw_seeds(found()) is None
    write_run("finetune", "full", 0)
    (panel,) = draw_seeds(found()).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["full", "no_shift, diverged"]


def test_variants_that_lie_far_off_do_not_press_the_others_together(project: Path) -> None:
    for variant, top1 in (("full", 80.0), ("no_causal_mask", 79.0), ("no_shift", 78.0), ("no_stop_gradient", 10.0)):
        write_run("finetune", variant, 0, top1=top1)
    near, far = draw_seeds(found()).axes
    assert [label.get_text() for label in near.get_yticklabels()] == ["full", "no_causal_mask", "no_shift"]
    assert [label.get_text() for label in far.get_yticklabels()] == ["no_stop_gradient"]


def test_a_class_s_name_is_no_formula(project: Path) -> None:
    for stage in ("finetune", "segment"):
        folder = write_run(stage, "full", 0, confusion=[[3, 1], [0, 2]], class_names=["$\\frac$", "a $ b $"])
        np.savez(folder / "samples.npz", **segmentation_samples(9, 12, 3, 2) | {"names": ["$\\frac$", "a $ b $"]})
    assert {"confusion", "segmentations"} <= set(draw_figures(found(), Path("figures"), []))


def test_the_confusion_matrix_is_in_percent_over_all_seeds(project: Path) -> None:
    for seed, confusion in enumerate(([[3, 1], [0, 0]], [[3, 1], [2, 2]])):
        write_run("finetune", "full", seed, confusion=confusion, class_names=["cat", "dog"])
    panel = draw_confusion(found()).axes[0]
    assert panel.images[0].get_array().tolist() == [[75, 25], [50, 50]]
    for axis in (panel.xaxis, panel.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == ["cat", "dog"]


def test_long_names_leave_the_confusion_matrices_their_room(project: Path) -> None:
    names = [f"{number} common kingfisher bird" for number in range(12)]
    for variant in ("full", "from_scratch"):
        write_run("finetune", variant, 0, confusion=np.eye(12, dtype=int).tolist(), class_names=names)
    figure = draw_confusion(found())
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().width > 0.22 * figure.bbox.width


def test_the_graph_of_stages_counts_what_is_finished_and_up_to_date() -> None:
    groups = [
        StageGroup("pretrain", False, (), declared=4, finished=4, current=4),
        StageGroup("finetune", False, (("pretrain", False),), declared=4, finished=3, current=2),
        StageGroup("finetune", True, (("pretrain", False),), declared=5, finished=0, current=0),
    ]
    shown = texts(draw_stages(groups))
    assert "pretrain\n4 of 4 finished\nup to date" in shown
    assert "finetune\n3 of 4 finished\n2 up to date" in shown
    assert "further ablations:\nfinetune\n0 of 5 finished" in shown
    assert draw_stages([]) is None
