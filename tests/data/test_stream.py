"""The order of training: by the seed and the step alone, however the work is shared."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from nepa.data.datasets import as_batch
from nepa.data.shards import ShardedImages
from nepa.data.stream import Draw, Drawn, Share, Stream, set_random_state
from nepa.data.transforms import TrainingTransform
from nepa.parameters.schema import Augmentation


def take(stream: Stream, steps: int) -> list[list[Draw]]:
    return list(itertools.islice(stream, steps))


def test_an_epoch_sees_each_image_once_in_an_order_of_its_own() -> None:
    draws = [draw for batch in take(Stream(10, 4, seed=0), 5) for draw in batch]
    first, second = [draw.index for draw in draws[:10]], [draw.index for draw in draws[10:]]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert [draw.number for draw in draws] == list(range(20))


def test_it_goes_on_at_any_step() -> None:
    assert take(Stream(10, 4, seed=0), 9)[6:] == take(Stream(10, 4, seed=0, start=6), 3)
    assert take(Stream(10, 4, seed=0), 3) != take(Stream(10, 4, seed=1), 3)


@pytest.mark.parametrize(("batch_size", "of"), [(8, 1), (8, 2), (8, 4), (12, 4), (6, 2), (5, 5)])
def test_shares_make_up_the_batch_and_are_symmetric(batch_size: int, of: int) -> None:
    shares = [Share(number, of).positions(batch_size) for number in range(of)]
    assert sorted(np.concatenate(shares)) == list(range(batch_size))
    for share in shares:
        pairs = share + share[::-1]
        if len(share) % 2 == 0:  # else Mixup has no pairs
            assert (pairs == batch_size - 1).all()
    whole = take(Stream(7, batch_size, seed=3), 4)
    parts = [take(Stream(7, batch_size, seed=3, shares=(Share(number, of),)), 4) for number in range(of)]
    for step, batch in enumerate(whole):
        assert sorted(batch) == sorted(draw for part in parts for draw in part[step])


class Random(Dataset):
    """Samples that are nothing but draws from each generator."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        return index, random.random(), np.random.rand(), torch.rand(()).item()


def test_samples_do_not_depend_on_who_reads_them() -> None:
    def read(workers: int, start: int) -> list:
        loader = DataLoader(
            Drawn(Random(), seed=1),
            batch_sampler=Stream(6, 3, seed=1, start=start),
            num_workers=workers,
            collate_fn=list,
        )
        return list(itertools.islice(loader, 5 - start))

    alone = read(0, 0)
    assert read(1, 0) == read(2, 0) == alone
    assert read(2, 3) == alone[3:]
    flat = [value for batch in alone for sample in batch for value in sample[1:]]
    assert len(set(flat)) == len(flat)  # no two draws alike, across epochs too


def test_shares_of_a_batch_agree_in_numpy_and_differ_in_torch() -> None:
    drawn = []
    for share in (0, 1, 0):
        set_random_state(5, 1, 7, share=share)
        drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert drawn[0] == drawn[2]
    assert drawn[0][:2] == drawn[1][:2] and drawn[0][2] != drawn[1][2]


def test_a_batch_is_a_uniform_sample_of_all_shards() -> None:
    images, per_shard, batch_size, batches = 40_000, 1_000, 512, 60
    shards, expected = images // per_shard, batch_size * per_shard / images
    statistics = []
    for batch in take(Stream(images, batch_size, seed=0), batches):
        counts = np.bincount([draw.index // per_shard for draw in batch], minlength=shards)
        # Drawn without replacement, counts vary by the share of the images that is not drawn.
        variance = expected * (1 - batch_size / images)
        statistics.append(((counts - expected) ** 2 / variance).sum())
    # Chi-squared with shards - 1 degrees of freedom: a mean of `batches` of them lies within five deviations.
    assert abs(np.mean(statistics) - (shards - 1)) < 5 * np.sqrt(2 * (shards - 1) / batches)


@pytest.mark.parametrize("rand_augment", [None, "rand-m9-mstd0.5-inc1"])
def test_shards_are_read_alike_by_any_number_of_workers_and_from_any_step(
    photographs: dict, rand_augment: str | None
) -> None:
    settings = Augmentation(
        crop_scale=[0.08, 1.0], interpolation="bilinear", flip=0.5, rand_augment=rand_augment, random_erasing=0.5
    )
    transform = TrainingTransform(photographs["data"], settings)
    dataset = ShardedImages(photographs["stored"], "training", transform, np.arange(12))

    def read(workers: int, start: int, shares: tuple[Share, ...] = (Share(),)) -> list[dict[str, torch.Tensor]]:
        loader = DataLoader(
            Drawn(dataset, seed=1),
            batch_sampler=Stream(12, 8, seed=1, start=start, shares=shares),
            num_workers=workers,
            collate_fn=as_batch,
        )
        return list(itertools.islice(loader, 4 - start))  # into the third epoch

    alone = read(0, 0)
    for batches, expected in ((read(2, 0), alone), (read(1, 2), alone[2:])):
        for batch, same in zip(batches, expected, strict=True):
            assert all(torch.equal(batch[key], same[key]) for key in same)
    half = Share(1, 2)
    for batch, whole in zip(read(0, 0, (half,)), alone, strict=True):
        assert torch.equal(batch["images"], whole["images"][half.positions(8)])
    assert not torch.equal(alone[0]["images"], alone[1]["images"])
