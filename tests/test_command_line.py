"""The `nepa` command: quick help, exit status 2 with one line for what the user can mend, no half-written output."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Write, not_as_root
from torch.utils.data import DataLoader, Dataset

from nepa.command_line import TRAINING, main
from nepa.errors import UserError

NEPA = Path(sys.executable).with_name("nepa")


def processor_seconds() -> float:
    """Of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_answers_in_under_a_second() -> None:
    """Of its own, whatever the neighbours do; the quickest of three."""
    seconds = []
    for _ in range(3):
        started = processor_seconds()
        shown = subprocess.run([NEPA, "--help"], capture_output=True, text=True, check=True).stdout
        seconds.append(processor_seconds() - started)
    assert min(seconds) < 1
    for stage in ("prepare", "pretrain", "finetune", "segment", "report"):
        assert stage in shown


@pytest.mark.parametrize("command", ["commands.compare", "commands.recipe", "commands.status", "stages.report"])
def test_what_only_reads_does_without_torch(command: str) -> None:
    """Whose import takes longer than all that these commands do."""
    imports = f"import sys; from nepa.command_line import import_command; import_command({command!r})"
    subprocess.run([sys.executable, "-c", f"{imports}; sys.exit('torch' in sys.modules)"], check=True)


@pytest.mark.parametrize("stage", ["check", "prepare", *TRAINING, "report"])
def test_every_command_checks_params_yaml_first(
    stage: str, write_parameters: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = write_parameters(**{"model.heads": 3}).parent
    monkeypatch.chdir(folder)
    assert main([stage]) == 2
    error = capsys.readouterr().err
    assert error == "nepa: error: params.yaml: model: width 16 must be a multiple of heads 3\n"
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pretrain", "--variant", "nope"], "pretrain has no variant 'nope'; it has full"),
        (["finetune", "--variant", "nope"], "_masked_60, causal_attention"),
        (["pretrain", "--seed", "-1"], "--seed -1 must be from 0 to 4294967295"),
        (["pretrain", "--seed", str(2**32)], "--seed 4294967296 must be from 0 to 4294967295"),
        (
            ["finetune", "--seed", "9"],
            "seed-9/backbone.safetensors not found; run `nepa pretrain --variant full --seed 9` first",
        ),
        (["segment"], "seed-0/backbone.safetensors not found; run `nepa pretrain --variant full --seed 0` first"),
        (["report"], "results/runs holds no finished run; run `dvc repro`"),
    ],
)
def test_what_the_user_can_mend(
    project: Path, capsys: pytest.CaptureFixture, arguments: list[str], expected: str
) -> None:
    before = sorted(project.rglob("*"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("nepa: error: ") and error.count("\n") == 1
    assert expected in error
    assert [path for path in sorted(project.rglob("*")) if path.is_file()] == [p for p in before if p.is_file()]


def test_where_nothing_is_segmented(
    write_parameters: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(write_parameters(scenes=None, segmentation={}).parent)
    assert main(["segment"]) == 2
    assert "no variant has a segment stage; add one, as docs/adding-a-variant.md says" in capsys.readouterr().err


def test_recipes_are_found_in_the_project_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipe", "--list"]) == 2
    assert "recipes holds no recipe; run from the project's root" in capsys.readouterr().err


def test_unwritable_results(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / "results").write_text("a file where the folder should be")  # root may write to any folder
    assert main(["pretrain"]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("nepa: error: results")
    assert error.endswith("move away the file that stands where a folder should be\n")


def test_a_full_disk(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from nepa.runs import results

    monkeypatch.setattr(results, "write_weights", lambda *_: Path("/dev/full").write_text("no room"))
    assert main(["pretrain"]) == 2
    assert "No space left on device; free some space and run the stage again" in capsys.readouterr().err
    assert not (project / "checkpoints").exists() and not (project / "results").exists()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ..."),
            "pretrain: CUDA out of memory; give execution's pretrain fewer images_per_pass, recompute_activations, ",
        ),
        (OSError(errno.ENOLCK, "No locks available", "lock"), "lock: No locks available; work on a disk that is"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), "aaa: File name too long; shorten its name"),
    ],
)
def test_what_the_machine_lacks_is_told_in_a_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: Exception, expected: str
) -> None:
    from nepa.stages import pretrain

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(pretrain, "run", fails)
    assert main(["pretrain"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"nepa: error: {expected}") and shown.count("\n") == 1


def test_ctrl_c_is_told_in_a_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from nepa.stages import check

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "run", interrupted)
    assert main(["check"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "nepa: interrupted\n"


def test_what_could_not_be_printed_is_told() -> None:
    """At the end of the process Python would drop what its buffer still holds."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [NEPA, "recipe", "--list"], cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert process.returncode == 2 and "No space left on device; free some space" in process.stderr


def test_a_disk_without_locks_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert main(["pretrain"]) == 2
    assert "runs/smallest/pretrain/full/seed-0/lock: No locks available; work on" in capsys.readouterr().err


class Lost(Dataset):
    """Its one sample lies in a folder that is gone, or cannot be used."""

    def __init__(self, error: UserError | None) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bytes:
        if self.error:
            raise self.error
        return Path("data/smallest/images/training/00000.tar").read_bytes()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, "data/smallest/images/training/00000.tar: No such file or directory; bring it back with `dvc checkout`"),
        (UserError("00000.tar: no image at byte 512; prepare again"), "00000.tar: no image at byte 512; prepare again"),
        (UserError("of\ntwo lines.jpg: no image; remove it"), "of two lines.jpg: no image; remove it"),
    ],
)
def test_data_lost_while_it_is_read(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    workers: int,
    error: UserError | None,
    expected: str,
) -> None:
    """In the stage's own process or in a worker, which hands on no more than its traceback."""
    from nepa.stages import pretrain

    monkeypatch.setattr(pretrain, "run", lambda *_: list(DataLoader(Lost(error), num_workers=workers)))
    assert main(["pretrain"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"nepa: error: {expected}") and shown.count("\n") == 1


def test_a_file_that_no_one_can_bring_back_is_a_fault_of_the_code(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nepa.stages import pretrain

    monkeypatch.setattr(pretrain, "run", lambda *_: Path("elsewhere").read_text())
    with pytest.raises(FileNotFoundError):
        main(["pretrain"])


@not_as_root
def test_folder_without_permission(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / "results").mkdir(mode=0o555)
    assert main(["pretrain"]) == 2
    assert "results/runs: Permission denied; mend its permissions" in capsys.readouterr().err
