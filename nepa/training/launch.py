"""Starting one training in several processes, through torchrun, once."""

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType

import torch

from nepa.errors import UserError
from nepa.parameters.schema import TrainingExecution
from nepa.training.interruption import EXIT_CODE, STOP_FILE, signals_to
from nepa.training.processes import started_by_torchrun
from nepa.training.status import STATUS_FILE, read_status

log = logging.getLogger("nepa")


def launch(execution: TrainingExecution, arguments: list[str], scratch: Path) -> int | None:
    """Run `nepa ARGUMENTS` in as many processes as `execution` asks for and the machine has GPUs for.

    Several nodes are those of the SLURM job that this process runs in.

    Args:
        scratch: the run's folder, through which the processes are asked to stop.

    Returns:
        The exit code to end with; None where this process is to do the work itself.

    Raises:
        UserError: several nodes are asked for outside a SLURM job, torch cannot use this machine's GPUs, or a process
            died.
    """
    if started_by_torchrun():
        return None
    job = os.environ.get("SLURM_JOB_ID")
    if execution.nodes > 1 and job is None:
        raise UserError(f"execution: {execution.nodes} nodes need a SLURM job; start it there, or set nodes to 1")
    found = torch.cuda.device_count()  # which the driver says, even where torch can use none of them
    if found and execution.gpus and not torch.cuda.is_available():
        raise UserError(
            f"{found} GPUs are here, but torch for CUDA {torch.version.cuda} cannot use them; see whether `nvidia-smi` "
            "shows an older driver or a fault, or set execution's gpus to 0"
        )
    if execution.gpus > found:
        log.warning(f"execution asks for {execution.gpus} GPUs on each node; going on with the {found} that are here")
    each = max(1, min(execution.gpus, found))
    if each * execution.nodes == 1:
        return None
    from torch.distributed.run import get_args_parser  # slow to import

    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={each}"]
    if "--shutdown-timeout" in get_args_parser().format_help():  # not in torch 2.11
        # What is asked to stop writes a checkpoint first: SLURM waits two minutes for it, torchrun by itself 30 s.
        command += ["--shutdown-timeout=110"]
    if execution.nodes == 1:
        command += ["--standalone"]
    else:
        # One torchrun on each node; they meet on the first, which runs this.
        # Each has all of its node's CPUs: SLURM may otherwise bind a task to one of them.
        step = [f"--nodes={execution.nodes}", f"--ntasks={execution.nodes}", "--ntasks-per-node=1", "--cpu-bind=none"]
        command = ["srun", *step, *command]
        port = 20000 + int(job) % 20000
        command += [f"--nnodes={execution.nodes}", f"--rdzv-id={job}", "--rdzv-backend=c10d"]
        command += [f"--rdzv-endpoint={socket.gethostname()}:{port}"]
    command += ["-m", "nepa.command_line", *arguments]
    return _run(command, scratch)


def _run(command: list[str], scratch: Path) -> int:
    stop, told = scratch / STOP_FILE, scratch / STATUS_FILE
    before = read_status(told)
    asked = False

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if number == signal.SIGINT:  # a second Ctrl-C interrupts at once
            signal.signal(signal.SIGINT, signal.default_int_handler)
        stop.parent.mkdir(parents=True, exist_ok=True)
        stop.touch()

    stop.unlink(missing_ok=True)
    with signals_to(ask):
        # Ignored by torchrun, which would die of it; the trainings set their own.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        process = subprocess.Popen(command, start_new_session=True)
        signal.signal(signal.SIGUSR1, ask)
        status = None
        try:
            while status is None:
                try:
                    status = process.wait(timeout=1)
                except subprocess.TimeoutExpired:
                    if asked:  # again: a process that was just starting may have taken it for an old one
                        stop.touch()
        finally:
            if status is None:
                process.terminate()
                process.wait()
            stop.unlink(missing_ok=True)
    # On several nodes SLURM asks the processes of its steps, and not this one.
    now = read_status(told)
    if status and (asked or now != before and now is not None and now["state"] == "stopped"):
        return EXIT_CODE
    if status:
        raise UserError(
            "a process of this training died, as said above; the same command goes on from the last checkpoint"
        )
    return 0
