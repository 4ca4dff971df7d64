"""Where a run reads and writes: every path carries the recipe, the variant and the seed."""

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple, Self

from nepa.errors import UserError
from nepa.parameters import Parameters
from nepa.parameters.schema import Stage

# Apart, so that the report's dependency on the first does not make the others part of every `dvc repro`.
RESULTS = {"default": Path("results/runs"), "further": Path("results/further_ablations")}
SCRATCH = Path("runs")
# Where runs lie below any of these.
RUN_FOLDERS = "*/*/*/seed-*"


class RunName(NamedTuple):
    """What tells runs apart."""

    recipe: str
    stage: str
    variant: str
    seed: int

    @classmethod
    def of(cls, folder: PurePath) -> Self:
        """The name of the run whose folder ends so.

        Raises:
            UserError: it is a copy, or anything else that begins as one does.
        """
        recipe, stage, variant, seed = folder.parts[-4:]
        number = seed.removeprefix("seed-")
        if not number.isdecimal():
            raise UserError(f"{folder} is no folder of a run, which ends in seed-NUMBER; move it elsewhere")
        return cls(recipe, stage, variant, int(number))

    @property
    def of_all_seeds(self) -> str:
        """What runs that differ in the seed alone share."""
        return f"{self.recipe}/{self.stage}/{self.variant}"

    def __str__(self) -> str:
        """The folder, below a root."""
        return f"{self.of_all_seeds}/seed-{self.seed}"


@dataclass(frozen=True)
class RunPaths:
    """Files of one run of one stage."""

    recipe: str
    stage: Stage
    variant: str
    seed: int
    further: bool = False

    @classmethod
    def of(cls, parameters: Parameters, stage: Stage, variant: str, seed: int) -> "RunPaths":
        """The paths of a variant of params.yaml."""
        ablations = parameters.further_ablations
        further = stage != "segment" and variant in (*ablations.pretraining, *ablations.finetuning)
        return cls(parameters.recipe, stage, variant, seed, further)

    @property
    def name(self) -> RunName:
        """What tells it apart."""
        return RunName(self.recipe, self.stage, self.variant, self.seed)

    @property
    def checkpoints(self) -> Path:
        """Folder of the finished weights."""
        return Path("checkpoints") / str(self.name)

    @property
    def results(self) -> Path:
        """Folder of metrics.json, history.csv and run.json."""
        return RESULTS["further" if self.further else "default"] / str(self.name)

    @property
    def scratch(self) -> Path:
        """Folder that no engine owns: what must survive a kill lies here."""
        return SCRATCH / str(self.name)

    @property
    def title(self) -> str:
        """The run as a progress line names it."""
        return f"{self.stage} {self.variant} seed {self.seed}"
