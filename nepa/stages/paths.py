"""Where a run reads and writes: every path carries the recipe, the variant and the seed."""

import csv
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nepa.errors import UserError
from nepa.files import write_atomically, write_json
from nepa.parameters import Parameters
from nepa.training.status import STATUS_FILE

# The report asks only where things lie: what trains, and torch with it, is imported where a stage needs it.
if TYPE_CHECKING:
    from nepa.training.engine import Training

# Apart, so that the report's dependency on the first does not make the others part of every `dvc repro`.
RESULTS = {"default": Path("results/runs"), "further": Path("results/further_ablations")}


# What a stage trains by, besides what all of them share.
SECTIONS = {"pretrain": ("objective", "pretrain"), "finetune": ("finetune",), "segment": ("scenes", "segment")}


@dataclass(frozen=True)
class RunPaths:
    """Files of one run of one stage (`pretrain`, `finetune` or `segment`)."""

    recipe: str
    stage: str
    variant: str
    seed: int
    further: bool = False

    @classmethod
    def of(cls, parameters: Parameters, stage: str, variant: str, seed: int) -> "RunPaths":
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

    def identity(self, parameters: Parameters, data: str, start: Path | None = None) -> str:
        """Checksum of all that the run's weights depend on: parameters, seed, data, code, what it starts from.

        Args:
            parameters: the variant's.
            data: checksum of the data that is read.
            start: the weights that it starts from.
        """
        from nepa.data.images import file_checksum
        from nepa.training.provenance import code_checksum
        from nepa.training.run_state import checksum_of

        return checksum_of(
            {
                "run": self.title,
                "parameters": parameters.model_dump(include={"threads", "data", "model", *SECTIONS[self.stage]}),
                "data": data,
                "start": None if start is None else file_checksum(start),
                "code": code_checksum(),
            }
        )

    def write_results(self, metrics: dict, training: "Training | None", columns: list[str], run: dict) -> None:
        """Write metrics, history and provenance; the history holds `columns`, empty where nothing was trained.

        A copy goes beside the weights: DVC pushes what it caches, and the results themselves are git's.
        """
        with write_atomically(self.results / "history.csv") as beside, beside.open("w", newline="") as file:
            table = csv.DictWriter(file, columns, lineterminator="\n")
            table.writeheader()
            table.writerows(training.history if training else [])
        write_json(self.results / "run.json", run)
        write_json(self.results / "metrics.json", metrics)
        for result in self.results.glob("[!.]*"):  # not what a killed run left half-written
            with write_atomically(self.checkpoints / result.name) as beside:
                shutil.copyfile(result, beside)
        if training:  # what was kept to go on from
            shutil.rmtree(training.folder, ignore_errors=True)
            (self.scratch / STATUS_FILE).unlink(missing_ok=True)


def pretrained_backbone(parameters: Parameters, variant: str, seed: int) -> Path:
    """The backbone that a run starts from: its own variant's where it has one, else that of `full`."""
    source = variant if variant in parameters.variants("pretraining") else "full"
    return RunPaths.of(parameters, "pretrain", source, seed).checkpoints / "backbone.safetensors"


def data_checksum(manifest: dict) -> str:
    """One SHA-256 for a prepared folder."""
    return hashlib.sha256(json.dumps(manifest["sha256"], sort_keys=True).encode()).hexdigest()


def status_of_pretraining(parameters: Parameters, variant: str, seed: int) -> str:
    """The status that a pretraining ended with.

    Raises:
        UserError: it has not run, or its metrics are truncated.
    """
    path = RunPaths.of(parameters, "pretrain", variant, seed).results / "metrics.json"
    try:
        return json.loads(path.read_text())["status"]
    except FileNotFoundError:
        raise UserError(f"{path} not found; run `nepa pretrain --variant {variant} --seed {seed}` first") from None
    except (json.JSONDecodeError, KeyError):
        raise UserError(f"{path} is truncated or no JSON; delete it and run its stage again") from None
