"""Ratios of turns, and what a turn is."""

import pytest

from nepa.bench.step import Turns
from nepa.bench.turns import Ratio, Reading, ratio


def test_a_ratio_is_above_one_where_ours_is_quicker() -> None:
    assert ratio([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]) == Ratio(2.0, 2.0, 2.0)
    assert ratio([2.0, 2.0], [1.0, 1.0]).value == 0.5


def test_one_disturbed_turn_moves_neither_the_ratio_nor_its_spread() -> None:
    quiet = ratio([1.0] * 9, [1.5] * 9)
    assert ratio([1.0] * 8 + [50.0], [1.5] * 9) == ratio([1.0] * 9, [1.5] * 8 + [99.0]) == quiet == Ratio(1.5, 1.5, 1.5)


def test_the_spread_is_that_of_the_pairs() -> None:
    """A machine that slows down slows both of a pair: the spread is none, though the times differ fourfold."""
    assert ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0]) == Ratio(2.0, 2.0, 2.0)
    found = ratio([1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert found == Ratio(3.0, 2.0, 4.0)


def test_turns_belong_together() -> None:
    with pytest.raises(ValueError):
        ratio([1.0, 1.0], [1.0])


def test_readings_count_work_and_not_sleep() -> None:
    before = Reading.at_start()
    sum(number * number for number in range(200_000))
    taken = Reading.at_end().since(before)
    assert 0 < taken.processor <= taken.wall * 1.5


class Recorder:
    """Stands where the baseline stands, and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def step(self, batch: int) -> None:
        self.seen.append(batch)


def test_both_take_as_many_steps_in_turn() -> None:
    recorder = Recorder()
    in_turn = Turns(recorder, iter(range(100)), steps=3)
    for _ in range(4):
        in_turn(None)
    assert recorder.seen == list(range(12))
    assert len(in_turn.baseline) == 4 and len(in_turn.ours) == 4
