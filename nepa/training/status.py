"""How far a training is, in a small file that `nepa status` reads, on the same machine or over a shared disk."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from nepa.files import write_json

STATUS_FILE = "status.json"


class Status:
    """The status file of one run: stage, variant and seed, step, loss, images/s, time left, last checkpoint.

    Args:
        folder: the run's own, which no engine owns.
        title: the run as people call it.
    """

    def __init__(self, folder: Path, title: str) -> None:
        self.path = folder / STATUS_FILE
        self.title = title
        self.facts: dict[str, Any] = {
            "title": title,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "job": os.environ.get("SLURM_JOB_ID"),
            "started": time.time(),
            "state": "starting",
        }
        self._write()

    def update(self, **facts: Any) -> None:
        """Say how far it is."""
        self.facts |= {"state": "running"} | facts
        self._write()

    def _write(self) -> None:
        from mmengine.dist import is_main_process  # and torch, without which `nepa status` answers at once

        if is_main_process():
            write_json(self.path, self.facts | {"updated": time.time()})


def read_status(path: Path) -> dict[str, Any] | None:
    """The content of a status file, None where it is gone meanwhile, or damaged."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
