"""What a result came from: code, data, versions, hardware and time."""

import hashlib
import platform
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from mmengine.dist import get_world_size

import nepa
from nepa.parameters import Parameters
from nepa.runs.clock import process_seconds
from nepa.runs.paths import RunPaths
from nepa.training.engine import Training

PACKAGES = ("torch", "torchvision", "timm", "mmengine", "mmsegmentation", "mmcv-lite", "numpy")


PACKAGE = Path(nepa.__file__).parent


@cache
def loaded_sources() -> dict[Path, bytes]:
    """The sources of this package that the process had loaded when it first asked.

    But the command line's, which in torchrun's processes has no name of its own: a run goes on in either.
    """
    loaded = {Path(module.__file__) for name, module in sys.modules.items() if name.split(".")[0] == "nepa"}
    return {path: path.read_bytes() for path in sorted(loaded - {PACKAGE / "command_line.py"})}


def code_checksum() -> str:
    """SHA-256 over the loaded sources: a commit can't name itself, files can."""
    digest = hashlib.sha256()
    for path, content in loaded_sources().items():
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + content + b"\0")
    return digest.hexdigest()


def circumstances(threads: int) -> dict[str, Any]:
    """What any measurement depends on besides what is measured: hardware, threads, versions, code, and when it was."""
    return {
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "threads": threads,
        "processes": get_world_size(),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "code": code_checksum(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def provenance(parameters: Parameters, paths: RunPaths, data: str, training: Training) -> dict[str, Any]:
    """The content of run.json: everything about a run that may differ between two machines.

    Args:
        data: checksum of the data that was read.
        training: whose `seconds` are those of its loop; `stage_seconds` count from the process's start to this call,
            with those that the loop had in earlier processes.
    """
    facts = {
        "seconds": round(training.seconds, 3),
        "stage_seconds": round(training.earlier + process_seconds(), 3),
        "peak_memory_mb": round(getrusage(RUSAGE_SELF).ru_maxrss / 1024),
        "images_per_second": round(training.images / training.seconds, 1) if training.seconds else 0.0,
        "data": data,
        "seed": paths.seed,
        "command": f"nepa {paths.stage} --variant {paths.variant} --seed {paths.seed}",
    }
    if torch.cuda.is_available():
        facts["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1024**2)
    return circumstances(parameters.threads) | facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """Name and vector instructions: these choose torch's kernels, hence the rounding, and virtual machines hide which
    model a name stands for."""
    return f"{_processor_name()}, {torch.backends.cpu.get_cpu_capability()}"


def _processor_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
