"""Where the time went: training time and throughput by stage."""

from statistics import median

from matplotlib.figure import Figure

from nepa.parameters.schema import STAGES
from nepa.report.collect import Run
from nepa.report.figures.style import WIDTH, with_plain_numbers

TRAINING, REST = "#0072B2", "#A6CEE3"
UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


def draw_cost(runs: list[Run]) -> Figure | None:
    """Summed process time of each stage's runs, and every run's throughput with the stage's median."""
    facts = {stage: [run.provenance for run in runs if run.stage == stage] for stage in STAGES}
    facts = {f"{stage}\n{len(of)} run{'s' * (len(of) > 1)}": of for stage, of in facts.items() if of}
    if not facts:
        return None
    training = [sum(fact["seconds"] for fact in of) for of in facts.values()]
    process = [sum(fact["stage_seconds"] for fact in of) for of in facts.values()]
    unit, name = next((unit for unit in UNITS if max(process) >= 2 * unit[0]), UNITS[-1])
    figure = Figure((WIDTH, 0.75 * len(facts) + 1.5), layout="constrained")
    time, throughput = figure.subplots(1, 2, sharey=True)
    rest = [(whole - part) / unit for whole, part in zip(process, training, strict=True)]
    bars = [seconds / unit for seconds in training]
    time.barh(list(facts), bars, color=TRAINING, height=0.55, label="training")
    time.barh(list(facts), rest, left=bars, color=REST, height=0.55, label="rest of the process")
    time.set(title="Process time, summed over runs", xlabel=name)
    time.invert_yaxis()
    figure.legend(*time.get_legend_handles_labels(), loc="outside lower left", ncols=2)
    for row, of in enumerate(facts.values()):
        rates = [fact["images_per_second"] for fact in of if fact["images_per_second"]]
        if rates:
            middle = median(rates)
            throughput.plot(rates, [row] * len(rates), "o", color=TRAINING, alpha=0.35, markersize=6)
            throughput.plot(middle, row, "|", color="black", markersize=22, markeredgewidth=2)
            throughput.annotate(f"{middle:,.0f}", (middle, row), (0, 15), textcoords="offset points", ha="center")
    throughput.set(title="Throughput of each run, and median", xlabel="training images per second", xscale="log")
    with_plain_numbers(throughput.xaxis)
    return figure
