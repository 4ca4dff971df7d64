"""Two engines in one checkout, a full disk, a cache that can't be written to, data that vanishes in mid-run.

Each time a clear end, what ran before stays as it was, and the next run goes on.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from clones import COMMANDS, IDLE, Started, change, results, run, start
from dvc.lock import make_lock

pytestmark = pytest.mark.slow
STAGE = "finetune@full-0"
# As the document has it for long runs: a busy machine may make someone else hold DVC's lock for more than 3 seconds.
PATIENT = ["dvc", "--wait-for-lock", "repro"]
# One stage out of date, without the report that follows from it.
ONLY = {"dvc": ["dvc", "repro", STAGE], "snakemake": ["snakemake", "--cores", "2", ".snakemake/stages/finetune_full_0"]}
FINETUNED = [f"{kind}/smallest/finetune/full/seed-0" for kind in ("checkpoints", "results/runs")]


def copied(finished: Path, folder: Path) -> Path:
    """A copy of the finished repository in which fine-tuning, and so the report, is out of date."""
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    with (folder / "nepa/stages/finetune.py").open("a") as file:
        file.write("# Changed.\n")
    return folder


@pytest.fixture
def clone(finished: Path, tmp_path: Path) -> Path:
    """A copy of the test's own."""
    return copied(finished, tmp_path / "clone")


def stage_process(started: Started) -> psutil.Process:
    """The process of the stage that an engine runs at present."""
    started.wait_for(f"Running stage '{STAGE}'")
    while started.process.poll() is None:
        for child in psutil.Process(started.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "finetune" in child.cmdline():
                    return child
        time.sleep(0.05)
    raise AssertionError(started.output.read_text())


def blocked_by(shown: str, started: Started) -> bool:
    """DVC names a process that blocks it, and it is this one or one that it started."""
    family = psutil.Process(started.process.pid).children(recursive=True)
    named = re.search(r"is busy, it is being blocked by:\n  \(PID (\d+)\)", shown)
    return named is not None and int(named[1]) in {started.process.pid, *(child.pid for child in family)}


@contextmanager
def paused(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def ran(*outputs: str) -> list[str]:
    """The stages that were run, each as often as it was."""
    lines = [line for output in outputs for line in output.splitlines()]
    return sorted(line.split("'")[1] for line in lines if line.startswith("Running stage '"))


def assert_idle(clone: Path, commands: dict[str, list[str]]) -> None:
    for engine, command in commands.items():
        assert IDLE[engine] in run(clone, command)


@pytest.mark.parametrize("first", ["dvc", "snakemake"])
def test_who_comes_second_leaves_and_says_so(clone: Path, first: str) -> None:
    """The first one's stage stands still meanwhile; then DVC's lock is held for longer than DVC waits by itself."""
    started = start(clone, [*PATIENT, STAGE] if first == "dvc" else ONLY["snakemake"])
    stage = stage_process(started)
    with paused(stage):
        shown = run(clone, COMMANDS["dvc"], status=255)
        assert blocked_by(shown, started) and not ran(shown)
        shown = run(clone, COMMANDS["snakemake"], status=2)
        if first == "snakemake":
            assert f"nepa: error: another snakemake (PID {started.process.pid}) runs here; wait until" in shown
        else:
            assert blocked_by(shown, started)
        assert "Traceback" not in shown and not ran(shown)
    with make_lock(str(clone / ".dvc/tmp/lock"), wait=True):
        psutil.wait_procs([stage])
        time.sleep(5)
    status, shown = started.finish()
    assert status == 0, shown
    assert ran(shown) == [STAGE]
    assert_idle(clone, ONLY)


def test_two_that_start_at_once(clone: Path) -> None:
    """Whoever is first: no stage runs twice, and who has left has said so."""
    both = [start(clone, command) for command in (PATIENT, COMMANDS["snakemake"])]
    (first, one), (second, other) = (started.finish() for started in both)
    assert 0 in (first, second), one + other
    for status, shown in ((first, one), (second, other)):
        assert status == 0 or "is busy" in shown or "Unable to acquire lock" in shown, shown
    assert ran(one, other, run(clone, COMMANDS["dvc"])) == [STAGE, "report"]
    assert_idle(clone, COMMANDS)


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    """A file system at this folder; skips the test where that needs another user."""
    done = subprocess.run(["mount", *arguments, folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this user may not mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own, of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, "-t", "tmpfs", "-o", "size=64m", "tmpfs"):
        yield folder


def leave_free(disk: Path, kilobytes: int) -> Path:
    """Fill a disk up to this; returns the file to delete."""
    filler = disk / "filler"
    state = os.statvfs(disk)
    filler.write_bytes(bytes(state.f_bavail * state.f_frsize - kilobytes * 1024))
    return filler


def test_a_full_disk(finished: Path, small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "clone").symlink_to(small_disk)
    clone = copied(finished, tmp_path / "clone")
    for name in FINETUNED:
        shutil.rmtree(clone / name)
    ledger, before = (clone / "dvc.lock").read_bytes(), results(clone)
    filler = leave_free(small_disk, 24)  # too few for the weights
    shown = run(clone, ONLY["dvc"], status=255)
    where = f"{FINETUNED[0]}/classifier.safetensors"
    assert f"nepa: error: {where}: No space left on device; free some space and run the stage again\n" in shown
    assert "Traceback" not in shown
    assert (clone / "dvc.lock").read_bytes() == ledger and results(clone) == before
    filler.unlink()
    assert ran(run(clone, ONLY["dvc"])) == [STAGE]


def test_a_ledger_cut_off(clone: Path) -> None:
    """As a full disk may leave it, since DVC writes it in place."""
    run(clone, ONLY["dvc"])
    ledger = clone / "dvc.lock"
    content = ledger.read_text()
    ledger.write_text(content[: content.index("md5:", len(content) // 2) + 2])
    assert run(clone, COMMANDS["dvc"], status=255).startswith("'./dvc.lock' is invalid.")
    shown = run(clone, COMMANDS["snakemake"], status=2)
    assert shown.splitlines()[-1] == "nepa: error: unable to read: 'dvc.lock', YAML file structure is corrupted"
    run(clone, ["git", "checkout", "--quiet", "dvc.lock"])
    shown = run(clone, ONLY["dvc"])
    assert not ran(shown) and f"Stage '{STAGE}' is cached - skipping run" in shown
    assert ledger.read_text() == content


def test_a_full_disk_under_the_cache(clone: Path, small_disk: Path) -> None:
    """DVC says what it could not keep, and ends well: `snakemake` must not; and what has run is not lost."""
    change(clone, "finetune", "label_smoothing", 0.0)
    run(clone, ["dvc", "repro", "check"])
    run(clone, ["dvc", "cache", "dir", "--local", str(small_disk)])
    shutil.copytree(clone / ".dvc/cache", small_disk, dirs_exist_ok=True)
    before = results(clone)
    filler = leave_free(small_disk, 24)
    shown = run(clone, ONLY["snakemake"], status=1)
    assert re.search("ERROR: failed to transfer '.*No space left on device", shown)
    assert ran(shown) == [STAGE]
    assert {name for name, content in results(clone).items() if before[name] != content} <= {
        name for name in before if name.startswith(tuple(FINETUNED))
    }
    filler.unlink()
    run(clone, ["dvc", "commit", STAGE])
    assert_idle(clone, ONLY)


def test_a_cache_that_is_read_only(clone: Path) -> None:
    ledger, before = (clone / "dvc.lock").read_bytes(), results(clone)
    cache = clone / ".dvc/cache"
    with mounted(cache, "--bind", "-o", "ro", str(cache)):
        shown = run(clone, ONLY["dvc"], status=255)
    assert f"ERROR: failed to reproduce '{STAGE}': [Errno 30] Read-only file system: '{cache}" in shown
    assert (clone / "dvc.lock").read_bytes() == ledger and results(clone) == before
    assert ran(run(clone, ONLY["snakemake"])) == [STAGE]


def test_data_that_vanish_in_mid_run(clone: Path) -> None:
    stage, scenes = "segment@full-0", clone / "data/smallest/scenes"
    change(clone, "segment", "iterations", 5000)
    before = results(clone)
    started = start(clone, ["dvc", "repro", stage])
    started.wait_for("segment full seed 0  step")
    shutil.rmtree(scenes)
    status, shown = started.finish()
    assert status == 255 and "Traceback" not in shown
    message = r"nepa: error: data/smallest/scenes/\S+: No such file or directory; bring it back with `dvc checkout`"
    assert len(re.findall(message, shown)) == 1
    after = results(clone)
    assert after == {name: content for name, content in before.items() if "/segment/" not in name}
    change(clone, "segment", "iterations", 4)
    shown = run(clone, ["dvc", "repro", stage])
    assert ran(shown) == ["check", stage] and "Stage 'prepare_scenes' is cached - skipping run" in shown
