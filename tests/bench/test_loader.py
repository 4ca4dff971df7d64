"""The loaders' bench: rows for every comparison, in this process and in workers, and what storage costs."""

import json
import random
from pathlib import Path

import pytest
from conftest import SAMPLE

from nepa.bench import loader
from nepa.bench.fidelity import measure_fidelity
from nepa.bench.loader import COMPARISONS, measure_loader, prepare_for_bench
from nepa.data.shards import ShardedImages
from nepa.parameters.schema import Augmentation

AUGMENTATION = {"crop_scale": [0.08, 1.0], "interpolation": "bilinear", "flip": 0.5, "random_erasing": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("rand_augment", [None, "rand-m9-mstd0.5-inc1"])
def test_loaders_are_timed_in_turn(photographs: dict, rand_augment: str | None) -> None:
    settings = Augmentation(**AUGMENTATION, rand_augment=rand_augment)
    prepared = {name: photographs[name] for name in ("stored", "originals")}
    rows = measure_loader(photographs["data"], settings, prepared, workers=1, turns=3, images=96, batch_size=32)
    assert [row["workers"] for row in rows] == [0] * len(COMPARISONS) + [1] * len(COMPARISONS)
    for row in rows:
        assert row["images_per_second"] > 0 and row["reference_images_per_second"] > 0
        assert 0 < row["ratio"]["low"] <= row["ratio"]["high"]
    # Far below what a quiet machine shows, so that a busy one does not fail.
    assert rand_augment or (rows[0]["ratio"]["value"] > 2 and rows[1]["ratio"]["value"] > 1.2)


def test_a_large_source_gives_a_sample(photographs: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which nothing is known that is stored as it is."""
    monkeypatch.setattr(loader, "MOST_IMAGES", 6)
    data = photographs["data"].model_copy(update={"stored_size": 4000})
    prepared = prepare_for_bench(data, SAMPLE, tmp_path)
    for folder in prepared.values():
        assert len(ShardedImages(folder, "training", lambda image: image)) == 6
    rows = list(measure_fidelity(data, Augmentation(**AUGMENTATION, rand_augment=None), prepared))
    assert (rows[-1]["mean_difference"], rows[-1]["luma_decibels"]) == (0.0, None)


def test_stored_images_are_close_to_their_originals(photographs: dict) -> None:
    random.seed(0)
    settings = Augmentation(**AUGMENTATION, rand_augment=None)
    *transforms, stored = json.loads(json.dumps(list(measure_fidelity(photographs["data"], settings, photographs))))
    assert stored["mean_difference"] < 3.5 and stored["luma_decibels"] > 36
    assert [row["transform"] for row in transforms] == ["training", "evaluation"]
    assert all(row["mean_difference"] < 0.1 for row in transforms)
