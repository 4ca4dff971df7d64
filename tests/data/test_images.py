"""Prepared images: one split for all seeds, checked when read, shared labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nepa.data.datasets import first_images
from nepa.data.images import labelled_subset, load_images
from nepa.errors import UserError
from nepa.parameters import load_parameters

FOLDER = Path("data/smallest/images")


def test_splits_are_disjoint_and_hold_every_digit(project: Path) -> None:
    parameters = load_parameters()
    splits = [load_images(parameters, split) for split in ("training", "validation", "test")]
    assert [len(images.labels) for images in splits] == [197, 799, 801]
    ours = np.concatenate([images.pixels.reshape(-1, 64) for images in splits])
    source = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, source))


def test_the_split_follows_its_own_seed_alone(project: Path, prepared: Path) -> None:
    from nepa.command_line import main

    before = (FOLDER / "training.npz").read_bytes()
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("classification:\n  - 0\n", "classification:\n  - 5\n  - 0\n"))
    assert main(["prepare", "images"]) == 0
    assert (FOLDER / "training.npz").read_bytes() == before


def test_what_a_model_sees_is_normalised(project: Path) -> None:
    tensor = first_images(load_parameters(), "validation", 799)
    assert tensor.shape == (799, 1, 8, 8) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1


@pytest.mark.parametrize("damage", ["truncated", "replaced"])
def test_a_damaged_file_is_named(project: Path, damage: str) -> None:
    path = FOLDER / "test.npz"
    content = path.read_bytes()
    path.write_bytes(content[:-1] if damage == "truncated" else content.replace(b"\x00", b"\x01", 1))
    with pytest.raises(UserError, match=r"test\.npz is not what its manifest says .* prepare again"):
        load_images(load_parameters(), "test")


def test_a_file_that_the_manifest_vouches_for_but_is_none(project: Path) -> None:
    import hashlib

    manifest = json.loads((FOLDER / "manifest.json").read_text())
    (FOLDER / "test.npz").write_bytes(b"no archive")
    manifest["sha256"]["test.npz"] = hashlib.sha256(b"no archive").hexdigest()
    (FOLDER / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"test\.npz cannot be read"):
        load_images(load_parameters(), "test")


def test_missing_files(project: Path) -> None:
    (FOLDER / "test.npz").unlink()
    with pytest.raises(UserError, match=r"test\.npz not found; run `nepa prepare images`"):
        load_images(load_parameters(), "test")
    (FOLDER / "manifest.json").write_text('{"sha256": ')
    with pytest.raises(UserError, match=r"manifest\.json is truncated or no JSON"):
        load_images(load_parameters(), "validation")
    (FOLDER / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json lacks 'sha256'; delete data/smallest/images and run"):
        load_images(load_parameters(), "validation")
    (FOLDER / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json not found; run `nepa prepare` first"):
        load_images(load_parameters(), "validation")


def test_labelled_subset_is_balanced_and_follows_the_seed() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 500)
    chosen = labelled_subset(labels, 40, seed=3)
    assert np.bincount(labels[chosen]).tolist() == [4] * 10
    assert np.array_equal(chosen, labelled_subset(labels, 40, seed=3))
    assert not np.array_equal(chosen, labelled_subset(labels, 40, seed=4))


def test_too_few_of_a_class() -> None:
    labels = np.repeat([0, 1], [50, 3])
    with pytest.raises(UserError, match="finetune.labels 20 needs 10 images of class 1; lower it"):
        labelled_subset(labels, 20, seed=0)
