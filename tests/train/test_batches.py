from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from harness.data import Example
from harness.train.batches import Order, collate, micro_batches
from tests.train import tiny

CPU = torch.device("cpu")


def stream(order: Order) -> list[int]:
    return [index for step in range(order.num_steps) for index in order.indices(step)]


def test_order_of_whole_epochs_gives_every_example_equally_often() -> None:
    order = Order.of(tiny.recipe(num_steps=None, num_epochs=3.0, batch_size=4), num_examples=10, seed=1)
    sizes = [len(order.indices(step)) for step in range(order.num_steps)]
    assert sizes == [4] * 7 + [2]
    assert set(Counter(stream(order)).values()) == {3}


def test_order_of_each_epoch_is_a_fresh_permutation() -> None:
    order = Order.of(tiny.recipe(num_steps=None, num_epochs=2.0, batch_size=4), num_examples=30, seed=1)
    first, second = stream(order)[:30], stream(order)[30:]
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second


@pytest.mark.parametrize(
    ("num_examples", "num_epochs", "batch_size", "num_seen", "num_steps"),
    [(30, 0.1, 1, 3, 3), (400, 3.0, 16, 1200, 75), (5, 3.0, 16, 15, 1), (10, 0.25, 2, 3, 2), (3, 0.01, 8, 1, 1)],
)
def test_order_of_fractional_epochs_counts_steps_by_examples(
    num_examples: int, num_epochs: float, batch_size: int, num_seen: int, num_steps: int
) -> None:
    spec = tiny.recipe(num_steps=None, num_epochs=num_epochs, batch_size=batch_size)
    order = Order.of(spec, num_examples, seed=0)
    assert (order.num_steps, len(stream(order))) == (num_steps, num_seen)


def test_order_of_steps_loops_over_the_data_as_long_as_needed() -> None:
    order = Order.of(tiny.recipe(num_steps=9, batch_size=4), num_examples=6, seed=0)
    assert set(Counter(stream(order)).values()) == {6}


def test_order_follows_the_seed_alone() -> None:
    spec = tiny.recipe(num_steps=4)
    orders = [stream(Order.of(spec, 50, seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_collate_lists_only_positions_that_carry_loss() -> None:
    rows = [
        Example("a", np.array([5, 6, 7]), np.array([0, 0, 1], dtype=np.float32)),
        Example("b", np.array([8, 9]), np.array([0, 0.5], dtype=np.float32)),
    ]
    batch = collate(rows, [np.array([2.0]), np.array([10.0])], CPU)
    assert batch.input_ids_BT.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch.positions_K.tolist() == [1, 3]  # the states of 6 and 8
    assert batch.targets_K.tolist() == [7, 9]
    assert batch.weights_K.tolist() == [1.0, 0.5]
    assert batch.scales_K.tolist() == [2.0, 5.0]


def test_micro_batches_are_sorted_by_length_and_keep_each_scale_with_its_row() -> None:
    rows = tiny.examples(7)
    scales = np.arange(1.0, 8.0)
    made = list(micro_batches(rows, np.split(scales, len(scales)), size=3, device=CPU))
    widths = [batch.input_ids_BT.shape[1] for batch in made]
    assert [len(batch.input_ids_BT) for batch in made] == [3, 3, 1]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == max(len(row.input_ids) for row in rows)
    total = sum(float(batch.scales_K.sum()) for batch in made)
    assert total == pytest.approx(sum(scale * row.loss_weights.sum() for scale, row in zip(scales, rows, strict=True)))
