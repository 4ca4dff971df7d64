"""What reads for a loader does not outlive its process, and does not keep it from ending."""

import subprocess
import sys

UNREACHABLE = """
import gc
from torch.utils.data import DataLoader
from nepa.data.workers import read_on

iterator = iter(DataLoader(range(100), num_workers=1, persistent_workers=True, worker_init_fn=read_on))
next(iterator)
kept = [iterator]
kept.append(kept)
gc.freeze()
del iterator, kept
"""


def test_a_process_ends_though_nobody_can_reach_its_readers() -> None:
    ended = subprocess.run([sys.executable, "-c", UNREACHABLE], timeout=60, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
