"""Writing files so that an interruption leaves none, or all of them; reading them so that an error says what to do."""

import glob
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from nepa.errors import UserError


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write a file or a folder to; renamed to `path` when all went well.

    Raises:
        OSError: it names `path` where the system names no file, as on a full disk, or what lies beside it.
    """
    path = _where_it_lies(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    before = path.with_name(f".{path.name}.{os.getpid()}.before.partial")  # a folder takes long to delete
    try:
        yield beside
        if beside.is_file():
            with beside.open("rb") as file:
                os.fsync(file.fileno())  # else a power cut could leave the name without the content
        if path.is_dir():
            path.rename(before)
        beside.rename(path)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save's own error hides it
        if not isinstance(cause, OSError):
            raise
        # Nobody who reads the error knows of the name beside it.
        cause.filename = str(cause.filename or path).replace(str(beside), str(path))
        raise cause from None
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)
        if before.is_dir() and not path.exists():
            before.rename(path)
        elif before.is_dir():
            shutil.rmtree(before)


def _where_it_lies(path: Path) -> Path:
    """A folder that was laid on another disk stays there."""
    return path.resolve() if path.is_symlink() and path.is_dir() else path


def remove_partial(path: Path) -> None:
    """Delete what processes of this machine that were killed while they wrote `path` have left beside it."""
    path = _where_it_lies(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        process = left.name.removeprefix(f".{path.name}.").partition(".")[0]
        if not psutil.pid_exists(int(process)):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys, so that equal results are equal files."""
    with write_atomically(path) as beside:
        beside.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


class _Content(dict[str, Any]):
    """A map out of a file; to ask it for a key that it lacks, as one of another version may, is the file's fault."""

    def __init__(self, content: dict[str, Any], source: str, damaged: str) -> None:
        super().__init__(content)
        self._source, self._damaged = source, damaged

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._source} lacks '{key}'; {self._damaged}")


def read_json(path: Path, *, absent: str, damaged: str) -> dict[str, Any]:
    """The map that a JSON file holds.

    Args:
        absent, damaged: what to do where there is no file, or none that is whole.

    Raises:
        UserError: there is none; or, from what is returned, a key is asked for that it lacks.
    """
    try:
        return parse_json(path.read_bytes(), str(path), damaged)
    except FileNotFoundError:
        raise UserError(f"{path} not found; {absent}") from None


def parse_json(content: bytes, source: str, damaged: str) -> dict[str, Any]:
    """The same of what has been read: `source` is what errors call it."""
    try:
        found = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{source} is truncated or no JSON; {damaged}") from None
    if not isinstance(found, dict):
        raise UserError(f"{source} holds {type(found).__name__}, expected a map; {damaged}")
    return _Content(found, source, damaged)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an npz file, so that equal arrays are equal files.

    numpy's `savez` leaves headers that differ between versions of Python; compressed, they would depend on the build of
    zlib.
    """
    with write_atomically(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getbuffer())
