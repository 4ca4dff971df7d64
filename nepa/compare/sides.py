"""One side of a comparison: the parameters and metrics of a git revision, a DVC experiment or a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import SCMError
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from nepa.errors import UserError
from nepa.files import parse_json
from nepa.parameters.loading import read_yaml
from nepa.runs.paths import RUN_FOLDERS, RunName

METRICS = f"*/{RUN_FOLDERS}/metrics.json"  # of the main line or the further ablations


@dataclass(frozen=True)
class Side:
    """What is compared.

    Attributes:
        name: as the user gave it.
        parameters: of params.yaml; None where a folder of results lies alone.
        metrics: of each run.
    """

    name: str
    parameters: dict[str, Any] | None
    metrics: dict[RunName, dict[str, Any]]


def read_side(name: str) -> Side:
    """Read a folder (`.` for what lies here now), or else a revision or experiment of this repository.

    A folder holds params.yaml and results/, or is a folder of results alone.

    Raises:
        UserError: there is none of that name, it holds no results, or a file of it is damaged.
    """
    if not name:
        raise UserError("compare: '' names nothing; `.` is what lies here")
    folder = Path(name)
    if (folder / "results").is_dir():
        return _read(name, LocalFileSystem(), folder / "params.yaml", folder / "results")
    if folder.is_dir() and any(folder.glob(METRICS)):
        # Only the project's own results are known to belong to the params.yaml beside them.
        beside = folder.resolve().parent / "params.yaml" if folder.resolve().name == "results" else None
        return _read(name, LocalFileSystem(), beside, folder)
    try:
        Repo.find_root()
        files = DVCFileSystem(rev=name)
        files.info("/")  # looks the revision up
    except (NotDvcRepoError, SCMError, AttributeError):  # the last where git's object is a file's or a folder's
        raise UserError(
            f"compare: '{name}' is no folder of results, and no git revision or experiment here; "
            "see `git log` and `dvc exp list`"
        ) from None
    except DvcException as error:
        raise UserError(f"compare: DVC cannot read {name} ({str(error).splitlines()[0]}); name another") from None
    return _read(name, files, Path("params.yaml"), Path("results"))


def _read(name: str, files: AbstractFileSystem, parameters: Path | None, results: Path) -> Side:
    known = parameters is not None and files.exists(parameters.as_posix())
    paths = sorted(map(str, files.glob(f"{results.as_posix()}/{METRICS}")))
    if not paths:
        raise UserError(f"compare: {name} holds no results; run `dvc repro` there, or name another")
    metrics = {}
    for path in paths:
        run = RunName.of(Path(path).parent)
        if run in metrics:
            raise UserError(f"compare: {name} has {run} twice; delete the one that its params.yaml no longer declares")
        metrics[run] = parse_json(files.cat_file(path), f"compare: {path} of {name}", "run its stage again")
    source = f"compare: {parameters} of {name}"
    return Side(name, read_yaml(files.read_text(parameters.as_posix()), source) if known else None, metrics)
