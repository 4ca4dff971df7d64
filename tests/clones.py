"""Clones of the working tree with the smallest recipe, and the commands that run in them."""

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from conftest import ROOT, smallest_parameters
from dvc.utils.collections import merge_dicts

IDLE = {"dvc": "Data and pipelines are up to date.", "snakemake": "Nothing to be done"}
COMMANDS = {"dvc": ["dvc", "repro"], "snakemake": ["snakemake", "--cores", "2", "all"]}
IDENTITY = ["-c", "user.name=Tester", "-c", "user.email=tester@example.com"]


def shrunk(*, pretraining: tuple[str, ...], finetuning: tuple[str, ...] = ()) -> dict:
    """The smallest recipe with one seed, these variants, and one segmentation."""
    raw = smallest_parameters()
    raw["seeds"] = {"classification": [0], "segmentation": [0]}
    raw["pretraining"] = {name: raw["pretraining"][name] for name in pretraining}
    raw["finetuning"] = {name: raw["finetuning"][name] for name in finetuning}
    raw["segmentation"] = {"full": {}}
    return raw


def copy_of_the_working_tree(folder: Path, raw: dict) -> Path:
    """A git repository without a commit: the working tree, but `raw` as params.yaml, no results and no tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if not name.startswith(("results/", "tests/")) and name != "dvc.lock" and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    write(folder, raw)
    return folder


def finished_repository(folder: Path) -> Path:
    """A repository in which `dvc repro` has run the main line, committed; to be copied or cloned, not changed.

    The commit before has the ledger of another fine-tuning, and neither segmentation nor report.
    """
    raw = shrunk(pretraining=("full",))
    raw["further_ablations"] |= {"pretraining": {}, "finetuning": {}}
    copy_of_the_working_tree(folder, raw)
    (folder / "workflow/further_ablations/dvc.lock").unlink(missing_ok=True)
    run(folder, ["dvc", "repro", "finetune@full-0"])
    commit(folder, "Before")
    change(folder, "finetune", "mixup", 0.0)
    run(folder, ["dvc", "repro"])
    commit(folder, "Results")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """A newcomer's: nothing of git, DVC or clouds is configured, and DVC's own state dies with the test.

    Caches are this user's, which hold what `make` and earlier tests have put there.
    """
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "DVC_", "AWS_"))}
    return inherited | {
        "HOME": str(home),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        "GIT_CONFIG_NOSYSTEM": "1",
        "DVC_SITE_CACHE_DIR": str(home / "dvc"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@dataclass(frozen=True)
class Started:
    """A command that runs, and the file that gets what it prints."""

    process: subprocess.Popen
    output: Path

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Until it has printed this."""
        deadline = time.monotonic() + seconds
        while text not in self.output.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.output.read_text()[-6000:]
            time.sleep(0.05)

    def finish(self, seconds: float = 300) -> tuple[int, str]:
        """Exit status, and all that it printed."""
        return self.process.wait(seconds), self.output.read_text()


def start(folder: Path, command: list[str]) -> Started:
    """Start one command."""
    output = folder.parent / f"{len(list(folder.parent.glob('*.output')))}.output"
    with output.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    return Started(process, output)


def run(folder: Path, command: list[str], status: int = 0) -> str:
    """Run one command; returns what it printed."""
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == status, done.stdout[-6000:]
    return done.stdout


def blocks(document: str) -> list[tuple[str, str]]:
    """Language and content of every block of code in a document, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)


def follow(folder: Path, page: str) -> list[str]:
    """Do what a page says: its commands, its lines for params.yaml, its changes of code; what each block printed."""
    shown = []
    for language, block in blocks(page):
        if language == "yaml":
            raw = yaml.safe_load((folder / "params.yaml").read_text())
            write(folder, merge_dicts(raw, yaml.safe_load(block)))
        elif language == "diff":
            (folder / "page.diff").write_text(block)
            run(folder, ["git", "apply", "page.diff"])
        elif language == "sh":
            shown.append(run(folder, ["bash", "-euo", "pipefail", "-c", block]))
    return shown


def write(folder: Path, raw: dict) -> None:
    """Write params.yaml."""
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))


def change(folder: Path, section: str, key: str, value: object) -> None:
    """Change one key of params.yaml."""
    raw = yaml.safe_load((folder / "params.yaml").read_text())
    raw[section][key] = value
    write(folder, raw)


def commit(folder: Path, message: str) -> None:
    """Commit all that git does not ignore."""
    run(folder, ["git", "add", "--all"])
    run(folder, ["git", *IDENTITY, "commit", "--quiet", "--message", message])


def results(folder: Path) -> dict[str, bytes]:
    """Every result that must not depend on the engine, the time or the machine's load."""
    files = [*folder.glob("results/runs/**/metrics.json"), *folder.glob("results/runs/**/history.csv")]
    files += [*folder.glob("checkpoints/**/*.safetensors"), folder / "results/table.csv"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
