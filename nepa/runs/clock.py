"""How long this process has lived."""

import os
import time
from pathlib import Path


def process_seconds() -> float:
    """Seconds since the process was started, to a hundredth; psutil counts from a boot time in whole seconds."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5), in ticks since boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
