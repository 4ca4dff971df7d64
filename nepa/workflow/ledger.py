"""What DVC's ledger (dvc.lock) says of every stage, asked without taking a lock.

The report is written in the middle of `dvc repro`, by either engine. `repo.status()` can't be asked then: it wants the
locks that the running stage holds, and would call the report out of date while it is being written. So the ledger is
compared, through DVC's own objects, with what lies in the working tree: commands, parameters, sources, and the results
that are in git. What comes from another stage is compared with what the ledger says of that stage: whether data and
checkpoints lie here or only in a cache is no question of being up to date, so a clone without them writes the same
report. The stage `report` is left out: DVC records it when it has ended.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from dvc.dependency.base import Dependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import Stage

from nepa.errors import UserError
from nepa.workflow.stages import is_constant, upstream_first

REPORT = "report"
SETTLED = 1.0  # seconds since a ledger was last written
ATTEMPTS = 20


@dataclass(frozen=True)
class StageGroup:
    """A stage of a dvc.yaml with all items of its matrix.

    Attributes:
        name: its key in dvc.yaml.
        further: declared apart from the root's dvc.yaml.
        after: the groups that it reads from, by `name` and `further`.
        declared: items of the matrix; 1 without one.
        finished: items that the ledger has, with the results that it recorded.
        current: finished items that would not run again.
    """

    name: str
    further: bool
    after: tuple[tuple[str, bool], ...]
    declared: int
    finished: int
    current: int


def read_ledger() -> list[StageGroup]:
    """The groups of the dvc.yaml files below the current folder, each after those it reads from.

    Empty where the current folder is no project of DVC's, which a folder within one (a rehearsal's) is not either.

    Raises:
        UserError: a ledger is damaged, or did not rest for a second.
    """
    if not Path(Repo.DVC_DIR).is_dir():
        return []
    last: DvcException | None = None
    for _ in range(ATTEMPTS):
        before = _written()
        try:
            groups, last = _read(), None
        except DvcException as error:  # of a file that is half written, or for good
            groups, last = [], error
        # DVC writes the ledger in place, and another stage may end at any time.
        if last is None and before == _written() and abs(time.time() - max(before.values(), default=0)) > SETTLED:
            return groups
        time.sleep(SETTLED / 2)
    raise UserError(
        f"dvc.lock can't be read ({last or 'it keeps changing'}); run `nepa report` when no stage runs, or bring it "
        "back with git"
    )


def _written() -> dict[Path, float]:
    """When each ledger was last written, in seconds."""
    ledgers = [Path("dvc.lock"), *Path("workflow").glob("*/dvc.lock")]
    return {path: path.stat().st_mtime for path in ledgers if path.exists()}


def _read() -> list[StageGroup]:
    with Repo() as repo:
        graph = repo.index.graph  # from a stage to those that it reads from
        stages = [stage for stage in upstream_first(graph) if stage.addressing != REPORT]
        recorded = {out.fs_path: out.hash_info for stage in stages for out in stage.outs}
        finished = {stage for stage in stages if _finished(stage)}
        stale: set[Stage] = set()
        for stage in stages:
            upstream = {other for other in graph.successors(stage) if not is_constant(other)}
            if stage not in finished or upstream & stale or _changed(stage, recorded):
                stale.add(stage)
        groups: dict[tuple[str, bool], list[Stage]] = {}
        for stage in stages:
            groups.setdefault(_key(stage), []).append(stage)
        return [
            StageGroup(
                *key,
                after=tuple(sorted({_key(other) for item in items for other in graph.successors(item)})),
                declared=len(items),
                finished=len(finished & set(items)),
                current=len(set(items) - stale),
            )
            for key, items in groups.items()
        ]


def _key(stage: Stage) -> tuple[str, bool]:
    return stage.name.split("@")[0], ":" in stage.addressing


def _finished(stage: Stage) -> bool:
    recorded = [out for out in stage.outs if out.hash_info]
    here = is_constant(stage) or all(out.exists for out in recorded if not out.use_cache)
    return bool(recorded) and here


def _changed(stage: Stage, recorded: dict) -> bool:
    if stage.cmd_changed or any(not out.hash_info for out in stage.outs):
        return True
    if not is_constant(stage) and any(out.status() for out in stage.outs if not out.use_cache):
        return True
    return any(_changed_dependency(dep, recorded) for dep in stage.deps)


def _changed_dependency(dep: Dependency, recorded: dict) -> bool:
    if dep.fs_path in recorded:
        return dep.hash_info != recorded[dep.fs_path]
    within = any(str(parent) in recorded for parent in Path(dep.fs_path).parents)
    # Of one file in what a stage writes, the ledger of that stage says nothing; its own changes are followed anyway.
    return (dep.exists or not within) and bool(dep.status())
