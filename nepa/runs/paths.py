"""Where a run reads and writes: every path carries the recipe, the variant and the seed."""

from dataclasses import dataclass
from pathlib import Path

from nepa.parameters import Parameters
from nepa.parameters.schema import Stage

# Apart, so that the report's dependency on the first does not make the others part of every `dvc repro`.
RESULTS = {"default": Path("results/runs"), "further": Path("results/further_ablations")}


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
    def _run(self) -> Path:
        return Path(self.recipe) / self.stage / self.variant / f"seed-{self.seed}"

    @property
    def checkpoints(self) -> Path:
        """Folder of the finished weights."""
        return Path("checkpoints") / self._run

    @property
    def results(self) -> Path:
        """Folder of metrics.json, history.csv and run.json."""
        return RESULTS["further" if self.further else "default"] / self._run

    @property
    def scratch(self) -> Path:
        """Folder that no engine owns: what must survive a kill lies here."""
        return Path("runs") / self._run

    @property
    def title(self) -> str:
        """The run as a progress line names it."""
        return f"{self.stage} {self.variant} seed {self.seed}"
