"""Results are whole or absent."""

import errno
import hashlib
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nepa.files import write_arrays, write_atomically, write_json
from nepa.model.weights import write_weights


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as beside:
        beside.write_text('{"a": ')
        raise KeyboardInterrupt
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), write_atomically(tmp_path / "images") as beside:
        beside.mkdir()
        (beside / "training.npz").write_bytes(b"half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_laid_on_another_disk_stays_there(tmp_path: Path) -> None:
    (tmp_path / "large/images").mkdir(parents=True)
    (tmp_path / "images").symlink_to(tmp_path / "large/images")
    for content in ("first", "second"):
        with write_atomically(tmp_path / "images") as beside:
            beside.mkdir()
            (beside / "file").write_text(content)
        assert (tmp_path / "large/images/file").read_text() == content
    assert (tmp_path / "images").is_symlink() and len(list(tmp_path.iterdir())) == 2
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["images"]


def test_equal_arrays_are_equal_files_whatever_python_writes_them(tmp_path: Path) -> None:
    """The checksum is that of Python 3.10 to 3.13; numpy's own `savez` has another from one patch release on."""
    arrays = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.array(["x", "yz"])}
    write_arrays(tmp_path / "arrays.npz", arrays)
    with np.load(tmp_path / "arrays.npz") as file:
        assert all(np.array_equal(file[name], array) for name, array in arrays.items())
    found = hashlib.sha256((tmp_path / "arrays.npz").read_bytes()).hexdigest()
    assert found == "ec5e156a06f5670b5127680d7ea95f529a8852c877edd6f320add8889098bfb4"


@pytest.fixture
def no_room(tmp_path: Path) -> Iterator[None]:
    """No file may be longer than this, which to a writer is as a disk that is full soon."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fail(path: Path) -> None:
    """As a system that names what it could not open."""
    raise OSError(errno.EFBIG, "File too large", str(path))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"0" * 100_000),
        lambda path: torch.save({"weights": torch.zeros(100_000)}, path.open("wb", buffering=0)),
        fail,
    ],
    ids=["bytes", "torch.save", "named"],
)
def test_no_room_is_told_with_the_name_of_what_was_written(
    tmp_path: Path, no_room: None, write: Callable[[Path], object]
) -> None:
    path = tmp_path / "step-000000001.pt"
    with pytest.raises(OSError) as told, write_atomically(path) as beside:
        write(beside)
    assert told.value.errno == errno.EFBIG and told.value.filename == str(path)
    assert not list(tmp_path.iterdir())


def test_weights_too_many_are_told_likewise(tmp_path: Path, no_room: None) -> None:
    path = tmp_path / "backbone.safetensors"
    with pytest.raises(OSError) as told:
        write_weights(path, {"weights": torch.zeros(100_000)}, {})
    assert told.value.errno == errno.EFBIG and told.value.filename == str(path)
    assert not list(tmp_path.iterdir())


def test_a_folder_replaces_the_one_before(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with write_atomically(tmp_path / "images") as beside:
            beside.mkdir()
            (beside / name).touch()
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["second"]


def test_a_folder_that_cannot_be_renamed_leaves_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/first").touch()
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "images"):
        pass  # writes nothing
    assert [path.name for path in tmp_path.rglob("*")] == ["images", "first"]


def test_equal_results_are_equal_files(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "y": 2})
    write_json(tmp_path / "b", {"y": 2, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_weights_round_trip(tmp_path: Path) -> None:
    weights = {"a": torch.randn(3, 4).T, "b": torch.ones(2, requires_grad=True)}
    write_weights(tmp_path / "deep" / "w.safetensors", weights, {"classes": 3})
    read = load_file(tmp_path / "deep" / "w.safetensors")
    assert all(torch.equal(read[name], weight) for name, weight in weights.items())
    with safe_open(tmp_path / "deep" / "w.safetensors", "pt") as file:
        assert json.loads(file.metadata()["nepa"]) == {"classes": 3}
