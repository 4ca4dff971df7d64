"""The trainings that params.yaml declares: which variants each stage trains, and with which seeds."""

from collections.abc import Iterator
from dataclasses import dataclass

from nepa.parameters.agreement import Parameters
from nepa.parameters.loading import VariantGroup
from nepa.parameters.schema import Stage

# Whose variants each stage trains: a backbone that was pretrained otherwise is fine-tuned as well.
TRAINED: dict[Stage, tuple[VariantGroup, ...]] = {
    "pretrain": ("pretraining",),
    "finetune": ("pretraining", "finetuning"),
    "segment": ("segmentation",),
}


@dataclass(frozen=True)
class Declared:
    """One variant that a stage trains.

    Attributes:
        group: the map of params.yaml in which the variant stands.
        seeds: one run for each.
        further: of the further ablations, which run on request.
    """

    stage: Stage
    group: VariantGroup
    variant: str
    seeds: tuple[int, ...]
    further: bool


def declared(parameters: Parameters) -> Iterator[Declared]:
    """Stage by stage in the file's order, the further ablations after all others."""
    for further in (False, True):
        source = parameters.further_ablations if further else parameters
        for stage, groups in TRAINED.items():
            main_line = "segmentation" if stage == "segment" else "classification"
            seeds = tuple(source.seeds if further else getattr(source.seeds, main_line))
            for group in groups:
                for variant in getattr(source, group, {}):
                    yield Declared(stage, group, variant, seeds, further)


def variants_of(parameters: Parameters, stage: Stage) -> dict[str, Declared]:
    """What a stage trains, by variant."""
    return {each.variant: each for each in declared(parameters) if each.stage == stage}


def declared_runs(parameters: Parameters) -> set[tuple[Stage, str, int]]:
    """Stage, variant and seed of every run."""
    return {(each.stage, each.variant, seed) for each in declared(parameters) for seed in each.seeds}
