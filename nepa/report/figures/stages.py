"""The graph of stages: how many runs of each have finished, and how many of these are up to date."""

from typing import Any

import networkx
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from nepa.report.figures.style import WIDTH
from nepa.workflow.ledger import StageGroup

# Told apart by lightness as well, and named in words.
CURRENT, PARTLY, NOTHING = ("#CFE6F5", "#0072B2"), ("#FCE7C0", "#B36B00"), ("#F2F2F2", "#777777")
BOX = (0.86, 0.7)
REPORT = ("report", False)


def draw_stages(groups: list[StageGroup]) -> Figure | None:
    """One box per stage, from left to right as they read from each other."""
    if not groups:
        return None
    graph = networkx.DiGraph()
    for group in groups:
        key = (group.name, group.further)
        graph.add_node(key, group=group)
        graph.add_edges_from((before, key) for before in group.after)
    graph.add_edges_from((key, REPORT) for key in list(graph) if not graph.out_degree(key) and key != REPORT)
    shown = networkx.transitive_reduction(graph)
    columns = list(networkx.topological_generations(shown))
    figure = Figure((WIDTH, 0.95 * max(map(len, columns)) + 0.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-max(map(len, columns)) / 2, max(map(len, columns)) / 2))
    axes.set_axis_off()
    places = {}
    for x, column in enumerate(columns):
        # Beside what they read from, so that few arrows cross.
        heights = {key: sum(places[before][1] for before in shown.predecessors(key)) for key in column}
        means = {key: height / max(1, shown.in_degree(key)) for key, height in heights.items()}
        for number, key in enumerate(sorted(column, key=lambda key: (key[1], -means[key], key))):
            places[key] = (x, (len(column) - 1) / 2 - number)
            text, (face, edge) = _describe(graph.nodes[key].get("group"))
            corner = (x - BOX[0] / 2, places[key][1] - BOX[1] / 2)
            style: dict[str, Any] = {"boxstyle": "round,pad=0.02", "facecolor": face, "edgecolor": edge}
            axes.add_patch(FancyBboxPatch(corner, *BOX, mutation_aspect=0.8, **style))
            axes.text(*places[key], text, ha="center", va="center", fontsize=8.5, linespacing=1.35)
    for before, after in sorted(shown.edges):
        (x0, y0), (x1, y1) = places[before], places[after]
        ends = (x0 + BOX[0] / 2 + 0.03, y0), (x1 - BOX[0] / 2 - 0.03, y1)
        axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9, color="0.45", linewidth=0.9))
    return figure


def _describe(group: StageGroup | None) -> tuple[str, tuple[str, str]]:
    if group is None:
        return "report\nthis one", CURRENT
    title = f"further ablations:\n{group.name}" if group.further else group.name
    if not group.finished:
        return f"{title}\n0 of {group.declared} finished", NOTHING
    state = "up to date" if group.current == group.declared else f"{group.current} up to date"
    counted = f"{group.finished} of {group.declared} finished"
    return f"{title}\n{counted}\n{state}", CURRENT if group.current == group.declared else PARTLY
