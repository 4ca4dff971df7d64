"""How long a process has lived."""

import subprocess
import sys
import time


def test_it_counts_from_the_process_s_start() -> None:
    script = "import time; from nepa.runs.clock import process_seconds; time.sleep(0.5); print(process_seconds())"
    started = time.monotonic()
    told = float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert 0.5 < told < time.monotonic() - started + 0.02
