"""Stage `prepare images`. Out: data/<recipe>/images: arrays of images that fit into memory, or shards of a folder."""

from pathlib import Path

import numpy as np

from nepa.data.images import Images, file_checksum, images_folder
from nepa.files import write_arrays, write_atomically, write_json
from nepa.parameters import Parameters
from nepa.parameters.schema import Cifar10, Digits
from nepa.preparation.cifar10 import CLASSES, read_cifar10
from nepa.preparation.digits import read_digits
from nepa.preparation.shards import prepare_shards


def run(parameters: Parameters) -> None:
    """Prepare the images of the recipe's source, whole or not at all."""
    data, target = parameters.data, images_folder(parameters)
    if isinstance(data, Digits):
        splits = _split(read_digits(), data, "training", "validation", "test")
        write_splits(
            target, splits, "scikit-learn digits (UCI optical recognition of handwritten digits, test part)", None
        )
    elif isinstance(data, Cifar10):
        read = read_cifar10(parameters.sources.images)
        splits = _split(read["train"], data, "training", "validation") | {"test": read["test"]}
        write_splits(target, splits, "CIFAR-10 (Krizhevsky, 2009)", CLASSES)
    else:
        work = Path("runs") / parameters.recipe / "prepare_images"
        prepare_shards(data, Path(parameters.sources.images), work, target, parameters.execution.prepare.cpus)


def _split(images: Images, data: Cifar10 | Digits, *names: str) -> dict[str, Images]:
    """Split images once, by `data.split_seed`, independent of the runs' seeds."""
    order = np.random.default_rng(data.split_seed).permutation(len(images.labels))
    ends = np.cumsum([getattr(data, f"{name}_images") for name in names[:-1]])
    parts = np.split(order, ends)
    return {name: Images(images.pixels[part], images.labels[part]) for name, part in zip(names, parts, strict=True)}


def write_splits(target: Path, splits: dict[str, Images], source: str, classes: list[str] | None) -> None:
    """Write `<split>.npz` of every split and their manifest.

    Args:
        classes: names, in the order of the labels; None where the labels are their own.
    """
    with write_atomically(target) as folder:
        folder.mkdir()
        for split, images in splits.items():
            write_arrays(folder / f"{split}.npz", {"images": images.pixels, "labels": images.labels})
        manifest = {"source": source} | ({} if classes is None else {"classes": classes})
        manifest |= {
            "images": {split: len(images.labels) for split, images in splits.items()},
            "sha256": {path.name: file_checksum(path) for path in sorted(folder.glob("*.npz"))},
        }
        write_json(folder / "manifest.json", manifest)
