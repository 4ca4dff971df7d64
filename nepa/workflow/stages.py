"""The stages of dvc.yaml as a scheduler needs them: order, resources, and which are out of date.

DVC is the only judge of what is out of date. A scheduler's view of that is one marker file per stage: it exists when
the stage was up to date at planning, or has been run since. The stages' real outputs are no scheduler's business: it
would delete them before a run that DVC may then find unnecessary.
"""

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import networkx
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import Stage as DvcStage
from zc.lockfile import LockError as Held
from zc.lockfile import LockFile

from nepa.errors import UserError

ATTEMPTS, SETTLED = 5, 0.5  # seconds that DVC may take to write the ledger
MARKERS = Path(".snakemake/stages")


@dataclass(frozen=True)
class Stage:
    """One stage, or one item of a matrix.

    Attributes:
        address: DVC's name for it, as in `dvc repro --single-item ADDRESS`.
        after: addresses of the stages whose outputs it reads.
        meta: `cpus` and `gpus` on each of `nodes`, `mem_mb`, `runtime` (minutes).
    """

    address: str
    after: tuple[str, ...]
    meta: dict[str, Any]

    @property
    def further(self) -> bool:
        """Declared apart from the root's dvc.yaml."""
        return ":" in self.address

    @property
    def rule(self) -> str:
        """The address as an identifier."""
        name = self.address.removeprefix("workflow/").replace("/dvc.yaml:", "_")
        return "".join(c if c.isalnum() else "_" for c in name)

    @property
    def resources(self) -> dict[str, Any]:
        """Snakemake's resources, CPUs apart; SLURM's executor knows the same names."""
        nodes, gpus = self.meta.get("nodes", 1), self.meta.get("gpus", 0)
        found = {"mem_mb": self.meta["mem_mb"], "runtime": self.meta["runtime"], "nodes": nodes}
        # Ask the training to stop two minutes before SLURM ends the job.
        found["slurm_extra"] = "--signal=TERM@120"
        if gpus:
            # One machine's trainings take its GPUs from the first on, so its profile has them one after another.
            # On several nodes SLURM is told of each; of a sum it might take more from one than from another.
            found |= {"gpu_stage": 1} | ({"gpu": gpus} if nodes == 1 else {"gres": f"gpu:{gpus}"})
        if nodes > 1:
            # The executor then leaves it to the stage to start on the other nodes, one torchrun on each. By itself it
            # would ask SLURM for as many tasks on each GPU.
            found |= {"mpi": "torchrun", "tasks": nodes, "tasks_per_gpu": 0}
        return found

    @property
    def marker(self) -> Path:
        """Exists while the stage is up to date."""
        return MARKERS / self.rule


def upstream_first(graph: networkx.DiGraph) -> list[DvcStage]:
    """The stages of DVC's graph, each after those that it reads from."""
    return list(reversed(list(networkx.topological_sort(graph))))


def is_constant(stage: DvcStage) -> bool:
    """It writes the same whatever it reads, so nothing follows from it and nobody needs its output."""
    return bool((stage.meta or {}).get("constant"))


def read_stages() -> list[Stage]:
    """All stages of the dvc.yaml files below the current folder, each after those that it reads from.

    Raises:
        DvcException: the stages or the ledger cannot be read.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return _read_stages()
        except DvcException:  # DVC writes the ledger in place, and a stage may end at any time
            time.sleep(SETTLED)
    return _read_stages()


def _read_stages() -> list[Stage]:
    with Repo() as repo:
        graph = repo.index.graph  # from a stage to those that it reads from
        return [
            Stage(
                address=stage.addressing,
                after=tuple(sorted(upstream.addressing for upstream in graph.successors(stage))),
                meta=stage.meta or {},
            )
            for stage in upstream_first(graph)
        ]


@cache
def claim() -> LockFile:
    """Keep the current folder for one scheduler until its process ends, however it ends.

    Raises:
        UserError: another scheduler has it.
    """
    path = MARKERS.with_suffix(".lock")
    path.parent.mkdir(exist_ok=True)
    try:
        return LockFile(str(path))
    except Held:
        holder = path.read_text().strip()
        raise UserError(f"another snakemake (PID {holder}) runs here; wait until it has ended") from None


def out_of_date() -> set[str]:
    """Addresses of the stages that DVC finds changed, and of all that follow from them.

    Raises:
        dvc.lock.LockError: DVC is running a stage here.
    """
    with Repo() as repo:
        changed = set(repo.status())
        graph = repo.index.graph
        stale = set(changed)
        for stage in graph:
            if stage.addressing in changed and not is_constant(stage):
                stale |= {follower.addressing for follower in networkx.ancestors(graph, stage)}
        return stale


def mark(stages: list[Stage], stale: set[str]) -> None:
    """Bring the markers in line with DVC's judgement."""
    MARKERS.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        if stage.address in stale:
            stage.marker.unlink(missing_ok=True)
        elif not stage.marker.exists():
            stage.marker.touch()
