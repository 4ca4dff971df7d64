"""Stage `prepare images`. Out: data/<recipe>/images/{training,validation,test}.npz and manifest.json."""

import numpy as np

from nepa.data.digits import read_digits
from nepa.data.images import SPLITS, file_checksum, images_folder
from nepa.parameters import Parameters
from nepa.training.checkpoints import write_atomically, write_json


def run(parameters: Parameters) -> None:
    """Split the source once, by `data.split_seed`, independent of the runs' seeds."""
    data = parameters.data
    images, labels = read_digits()
    order = np.random.default_rng(data.split_seed).permutation(len(images))
    ends = np.cumsum([data.training_images, data.validation_images])
    with write_atomically(images_folder(parameters)) as folder:
        folder.mkdir()
        for split, indices in zip(SPLITS, np.split(order, ends), strict=True):
            np.savez(folder / f"{split}.npz", images=images[indices], labels=labels[indices])
        manifest = {
            "source": "scikit-learn digits (UCI optical recognition of handwritten digits, test part)",
            "images": {split: len(i) for split, i in zip(SPLITS, np.split(order, ends), strict=True)},
            "sha256": {path.name: file_checksum(path) for path in sorted(folder.glob("*.npz"))},
        }
        write_json(folder / "manifest.json", manifest)
