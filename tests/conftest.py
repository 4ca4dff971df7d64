"""Shared by all tests: the repository's own params.yaml, shrunk to the smallest run that goes through every stage."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT.parent / "shared/data/imagenet_sample.tar"
SMALLEST: dict[str, Any] = {
    "recipe": "smallest",
    "seeds": {"classification": [0, 1], "segmentation": [0]},
    "data": {"validation_images": 799, "test_images": 801},
    "scenes": {"training": 8, "validation": 3},
    "further_ablations": {"seeds": [0]},
    "model": {"width": 16, "depth": 2, "heads": 2},
    "pretrain": {"epochs": 2, "warmup_epochs": 1, "monitor_every": 4},
    "finetune": {"labels": 40, "epochs": 2, "warmup_epochs": 1, "batch_size": 20},
    "segment": {
        "iterations": 3,
        "warmup_iterations": 1,
        "batch_size": 2,
        "blocks": [0, 0, 1, 1],
        "decoder_channels": 8,
    },
}
Write = Callable[..., Path]
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU: no g++ here"
)
not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write anywhere")


@contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """A folder that may not be read, which has to end in an error that names it."""
    folder.chmod(0)
    try:
        with pytest.raises(PermissionError) as told:
            yield
    finally:
        folder.chmod(0o700)
    assert told.value.filename == str(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that two processes end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def smallest_parameters() -> dict[str, Any]:
    """The content of the smallest recipe's params.yaml; every variant is that of the default recipe."""
    raw = yaml.safe_load((ROOT / "recipes/digits.yaml").read_text())  # whatever recipe is in place
    for section, values in SMALLEST.items():
        raw[section] = raw[section] | values if isinstance(values, dict) else values
    raw["finetuning"].pop("from_scratch_long", None)
    return raw


def ended_as(status: str, checkpoint: Path) -> None:
    """Make a checkpoint say that its training ended so."""
    from nepa.model.weights import read_weights, write_weights

    weights, text = read_weights(checkpoint, absent="", damaged="")
    description = json.loads(text)
    description["training"][-1]["status"] = status
    write_weights(checkpoint, weights, description)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the smallest recipe's params.yaml, in which images and scenes are prepared."""
    from nepa.command_line import main

    folder = tmp_path_factory.mktemp("prepared")
    (folder / "params.yaml").write_text(yaml.safe_dump(smallest_parameters()))
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["prepare"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """250 ImageNet photographs, prepared as the recipe stores them and as they are: `data`, `stored`, `originals`."""
    from nepa.bench.loader import prepare_for_bench
    from nepa.parameters.recipes import recipe_text
    from nepa.parameters.schema import ImageFolder

    if not SAMPLE.exists():
        pytest.skip(f"{SAMPLE.name} is not beside the project")
    raw = yaml.safe_load(recipe_text("imagenet-base-paper"))["data"]
    data = ImageFolder(**raw | {"images_per_shard": 16})
    return {"data": data} | prepare_for_bench(data, SAMPLE, tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the main line of the smallest recipe has run; to be copied or cloned, not changed."""
    from clones import finished_repository

    return finished_repository(tmp_path_factory.mktemp("finished") / "repository")


@pytest.fixture
def project(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of `prepared` of the test's own, which is the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    yield folder


@pytest.fixture(scope="session")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `prepared` in which the main line has run; to be read, not written to."""
    from nepa.command_line import main

    folder = tmp_path_factory.mktemp("trained") / "project"
    shutil.copytree(prepared, folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert all(main([stage]) == 0 for stage in ("pretrain", "finetune", "segment"))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def write_parameters(tmp_path: Path) -> Write:
    """Writes params.yaml with some keys changed: `write_parameters(**{"model.width": 30})`; returns its path."""

    def write(**changes: Any) -> Path:
        raw = smallest_parameters()
        for key, value in changes.items():
            *sections, last = key.split(".")
            target = raw
            for section in sections:
                target = target.setdefault(section, {})
            target[last] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(raw))
        return path

    return write
