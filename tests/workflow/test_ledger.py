"""What the ledger tells of the stages: finished, up to date, and the same whether it is asked in mid-run or after."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from dvc.repo import Repo

from nepa.errors import UserError
from nepa.workflow import ledger
from nepa.workflow.ledger import StageGroup, read_ledger

ASK = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from nepa.workflow.ledger import read_ledger
print(json.dumps([[group.name, group.finished, group.current] for group in read_ledger()]))
"""
TOY = {
    "stages": {
        "check": {
            "cmd": "cp a checked",
            "deps": ["a"],
            "outs": [{"checked": {"cache": False}}],
            "meta": {"constant": True},
        },
        "train": {
            "matrix": {"seed": [0, 1]},
            "cmd": "mkdir weights-${item.seed} && cp b weights-${item.seed}/a && cp b metrics-${item.seed}",
            "deps": ["checked", "b"],
            "params": ["rate"],
            "outs": ["weights-${item.seed}", {"metrics-${item.seed}": {"cache": False}}],
        },
        "test": {"cmd": "cp weights-0/a tested", "deps": ["weights-0/a"], "outs": [{"tested": {"cache": False}}]},
        "report": {
            "cmd": f"{sys.executable} ask.py > asked",
            "deps": ["tested", "metrics-0", "metrics-1"],
            "outs": [{"asked": {"cache": False}}],
        },
    }
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run by `dvc repro`; the report asked the ledger meanwhile."""
    folder = tmp_path_factory.mktemp("ledger") / "toy"
    folder.mkdir()
    Repo.init(str(folder), no_scm=True)
    files = {"dvc.yaml": yaml.safe_dump(TOY), "params.yaml": "rate: 1\n", "ask.py": ASK, "a": "a", "b": "b"}
    for name, content in files.items():
        (folder / name).write_text(content)
    dvc = Path(sys.executable).with_name("dvc")
    done = subprocess.run([dvc, "repro"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def toy(ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it is the current folder."""
    shutil.copytree(ran, tmp_path / "toy")
    monkeypatch.chdir(tmp_path / "toy")


def counts() -> dict[str, tuple[int, int]]:
    return {group.name: (group.finished, group.current) for group in read_ledger()}


def test_asked_in_mid_run_it_says_what_it_says_afterwards(toy: None) -> None:
    asked = {name: (finished, current) for name, finished, current in json.loads(Path("asked").read_text())}
    assert asked == counts() == {"check": (1, 1), "train": (2, 2), "test": (1, 1)}
    train = next(group for group in read_ledger() if group.name == "train")
    assert train == StageGroup("train", False, (("check", False),), declared=2, finished=2, current=2)
    with Repo() as repo:
        assert not repo.status()  # nothing was disturbed


def test_data_that_lies_elsewhere_is_no_change(toy: None) -> None:
    shutil.rmtree("weights-0")  # `test` reads a file of it
    Path("checked").unlink()  # a constant that git does not have
    assert counts() == {"check": (1, 1), "train": (2, 2), "test": (1, 1)}


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("b", "changed", {"check": (1, 1), "train": (2, 0), "test": (1, 0)}),
        ("params.yaml", "rate: 2\n", {"check": (1, 1), "train": (2, 0), "test": (1, 0)}),
        ("a", "changed", {"check": (1, 0), "train": (2, 2), "test": (1, 1)}),
        ("metrics-1", "changed", {"check": (1, 1), "train": (2, 1), "test": (1, 1)}),
        ("metrics-1", None, {"check": (1, 1), "train": (1, 1), "test": (1, 1)}),
        ("dvc.lock", None, {"check": (0, 0), "train": (0, 0), "test": (0, 0)}),
    ],
)
def test_changes(toy: None, path: str, content: str | None, expected: dict[str, tuple[int, int]]) -> None:
    Path(path).unlink()
    if content is not None:
        Path(path).write_text(content)
    assert counts() == expected


def test_a_new_output_or_command_is_a_change(toy: None) -> None:
    raw = json.loads(json.dumps(TOY))
    raw["stages"]["test"]["cmd"] += " -v"
    Path("dvc.yaml").write_text(yaml.safe_dump(raw))
    assert counts() == {"check": (1, 1), "train": (2, 2), "test": (1, 0)}
    raw["stages"]["train"]["outs"].append("samples-${item.seed}")
    Path("dvc.yaml").write_text(yaml.safe_dump(raw))
    assert counts() == {"check": (1, 1), "train": (2, 0), "test": (1, 0)}


def test_a_ledger_that_is_being_written_is_read_when_it_is_whole(toy: None) -> None:
    """DVC writes it in place, and another stage may end while the report is written."""
    expected = counts()
    lock = Path("dvc.lock").resolve()  # the test may end before the writer does
    text = lock.read_text()
    for part in (text[: text.index("params:")], text[: text.index("  train@1")]):  # damaged; whole but for one stage
        lock.write_text(part)
        writer = threading.Timer(0.7, lock.write_text, [text])
        writer.start()
        assert counts() == expected
        writer.join()


def test_a_damaged_ledger_is_named(toy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "ATTEMPTS", 1)
    Path("dvc.lock").write_text("stages: [")
    with pytest.raises(UserError, match=r"dvc\.lock can't be read \(.*run `nepa report` when no stage runs"):
        read_ledger()


def test_outside_dvc_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_ledger() == []
    Repo.init(no_scm=True).close()
    (tmp_path / "rehearsal").mkdir()
    monkeypatch.chdir(tmp_path / "rehearsal")
    assert read_ledger() == []
