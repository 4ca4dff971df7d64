"""CIFAR-10 from wherever it lies, and nothing else in its place."""

import gzip
import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from nepa.command_line import main
from nepa.data.images import Images, load_images
from nepa.errors import UserError
from nepa.parameters import load_parameters
from nepa.parameters.recipes import recipe_text
from nepa.preparation import cifar10
from nepa.preparation.cifar10 import CLASSES, read_cifar10
from nepa.stages.prepare_images import write_splits

ARCHIVE = ROOT.parent / "shared/data/cifar10.tar.gz"


def digits(count: int) -> Images:
    """Digits as colour images of 32x32 pixels."""
    pixels = np.rint(load_digits().images[:count, :, :, None] * 15.9).astype(np.uint8)
    return Images(pixels.repeat(4, 1).repeat(4, 2).repeat(3, 3), load_digits().target[:count].astype(np.int64))


def write_archive(path: Path, images: dict[str, Images], label: str | None = None) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for split, of_split in images.items():
            for number, (pixels, digit) in enumerate(zip(of_split.pixels, of_split.labels, strict=True)):
                content = io.BytesIO()
                Image.fromarray(pixels).save(content, format="PNG")
                member = tarfile.TarInfo(f"{split}/{label or CLASSES[digit]}/{number:04d}.png")
                member.size = content.tell()
                content.seek(0)
                archive.addfile(member, content)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Images]:
    """A CIFAR-10 of 50 and 40 digits."""
    monkeypatch.setattr(cifar10, "COUNTS", {"train": 50, "test": 40})
    return {"train": digits(50), "test": digits(40)}


@pytest.mark.parametrize("name", ["images.tar", "images.tar.gz"])
def test_an_archive_gives_its_images(tmp_path: Path, small: dict[str, Images], name: str) -> None:
    write_archive(tmp_path / name, small)
    found = read_cifar10(str(tmp_path / name))
    for split, images in found.items():
        expected = sorted(zip(small[split].labels, map(bytes, small[split].pixels), strict=True))
        assert sorted(zip(images.labels, map(bytes, images.pixels), strict=True)) == expected


def test_torchvisions_copy_is_read(tmp_path: Path, small: dict[str, Images], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, content: dict[str, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    for attribute, split in (("train_list", "train"), ("test_list", "test")):
        pixels = small[split].pixels.transpose(0, 3, 1, 2).reshape(-1, 3072)
        entry = write(split, {"data": pixels, "labels": small[split].labels.tolist()})
        monkeypatch.setattr(CIFAR10, attribute, [entry])
    name, checksum = write("batches.meta", {"label_names": CLASSES})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": checksum})
    found = read_cifar10(str(tmp_path))
    assert all((found[split].pixels == small[split].pixels).all() for split in small)
    assert all((found[split].labels == small[split].labels).all() for split in small)

    monkeypatch.setattr(CIFAR10, "url", "file:///nowhere/cifar-10-python.tar.gz")
    (folder / "train").write_bytes((folder / "train").read_bytes() + b"more")  # not what its checksum says
    with pytest.raises(UserError, match=r"could not be fetched to .*; fetch cifar-10-python\.tar\.gz into a folder"):
        read_cifar10(str(tmp_path))


def test_what_is_not_cifar10_is_refused(tmp_path: Path, small: dict[str, Images]) -> None:
    with pytest.raises(UserError, match=r"nowhere\.tar\.gz not found"):
        read_cifar10(str(tmp_path / "nowhere.tar.gz"))
    write_archive(tmp_path / "other.tar.gz", small, label="cat")
    with pytest.raises(UserError, match=r"other\.tar\.gz holds 50 images of 1 classes in train; CIFAR-10 has 50 of"):
        read_cifar10(str(tmp_path / "other.tar.gz"))
    packed = (tmp_path / "other.tar.gz").read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match=r"half\.tar\.gz is truncated or no gzip file"):
        read_cifar10(str(tmp_path / "half.tar.gz"))
    (tmp_path / "plain.tar.gz").write_bytes(gzip.decompress(packed))
    with pytest.raises(UserError, match=r"plain\.tar\.gz is truncated or no gzip file"):
        read_cifar10(str(tmp_path / "plain.tar.gz"))
    with gzip.open(tmp_path / "text.tar.gz", "wb") as file:
        file.write(b"no archive")
    with pytest.raises(UserError, match=r"text\.tar\.gz is no complete, uncompressed tar file"):
        read_cifar10(str(tmp_path / "text.tar.gz"))
    larger = {split: Images(images.pixels.repeat(2, 1), images.labels) for split, images in small.items()}
    write_archive(tmp_path / "larger.tar", larger)
    with pytest.raises(UserError, match=r"larger\.tar: train/\w+/\d+\.png is no image of 32x32 pixels"):
        read_cifar10(str(tmp_path / "larger.tar"))


def test_a_damaged_copy_is_named_and_left_alone(tmp_path: Path) -> None:
    """torchvision would fetch another one in its place."""
    archive = tmp_path / CIFAR10.filename
    archive.write_bytes(b"half of it")
    with pytest.raises(UserError, match="cifar-10-python.tar.gz is truncated or not CIFAR-10's; fetch it again"):
        read_cifar10(str(tmp_path))
    assert archive.read_bytes() == b"half of it"


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVE.exists(), reason=f"{ARCHIVE.name} is not beside the project")
def test_the_published_images_are_split_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((ROOT / "recipes/cifar10.yaml").read_text())
    raw["sources"]["images"] = str(ARCHIVE)
    Path("params.yaml").write_text(yaml.safe_dump(raw))
    assert main(["prepare", "images"]) == 0
    splits = {name: load_images(load_parameters(), name) for name in ("training", "validation", "test")}
    assert {name: len(images.labels) for name, images in splits.items()} == {
        "training": 45_000,
        "validation": 5000,
        "test": 10_000,
    }
    assert np.bincount(np.concatenate([splits["training"].labels, splits["validation"].labels])).tolist() == [5000] * 10
    assert np.bincount(splits["test"].labels).tolist() == [1000] * 10
    both = [{bytes(pixels) for pixels in splits[name].pixels} for name in ("training", "validation")]
    assert len(both[0] & both[1]) < 5  # the few that CIFAR-10 holds twice


def test_training_augments_and_does_not_depend_on_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    raw = yaml.safe_load(recipe_text("cifar10-cpu"))
    raw["seeds"] = {"classification": [0], "segmentation": [0]}
    raw["further_ablations"]["seeds"] = [0]
    raw["model"] |= {"width": 32, "depth": 2, "heads": 2}
    raw["pretrain"] |= {"epochs": 2, "batch_size": 32, "monitor_every": 2, "monitor_images": 16}
    raw["finetune"] |= {"epochs": 2, "warmup_epochs": 0, "labels": 80, "batch_size": 20}
    raw["segment"] |= {"blocks": [0, 0, 1, 1]}
    monkeypatch.chdir(tmp_path)
    split = {"training": digits(160), "validation": digits(40), "test": digits(40)}
    write_splits(Path("data/cifar10-cpu/images"), split, "digits, in colour", CLASSES)
    histories = []
    for changes in ({"workers": 0}, {"workers": 2}, None):
        if changes is None:
            raw["pretrain"]["augmentation"] |= {"flip": 0.0, "crop_scale": [1.0, 1.0]}
            raw["finetune"]["augmentation"] = raw["pretrain"]["augmentation"]
        else:
            for stage in ("pretrain", "finetune"):
                raw["execution"][stage] |= changes
        Path("params.yaml").write_text(yaml.safe_dump(raw))
        assert main(["pretrain"]) == 0 and main(["finetune"]) == 0
        histories.append([path.read_bytes() for path in sorted(Path("results/runs").rglob("history.csv"))])
    assert len(histories[0]) == 2
    assert histories[0] == histories[1]
    assert all(with_it != without for with_it, without in zip(histories[1], histories[2], strict=True))
