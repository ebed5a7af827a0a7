from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.data.collate import collate
from harness.data.prepare import Example


def example(length: int, *, first: int = 5) -> Example:
    weights = np.zeros(length, dtype=np.float32)
    weights[length // 2 :] = 1.0
    return Example(f"row-{length}", np.arange(first, first + length, dtype=np.int64), weights)


def test_padding_shares_of_the_worked_example() -> None:
    for longest, padded in ((10, 7), (11, 9), (9, 4)):
        mask = collate([example(longest), example(longest - padded)], pad_id=0)["attention_mask"]
        assert mask[0].sum() == longest
        assert (mask[1] == 0).sum() == padded


def test_padding_weighs_nothing_and_is_attended_to_by_nothing() -> None:
    batch = collate([example(4), example(7)], pad_id=9)
    assert batch["input_ids"].tolist()[0] == [5, 6, 7, 8, 9, 9, 9]
    assert batch["attention_mask"].tolist()[0] == [1, 1, 1, 1, 0, 0, 0]
    assert batch["loss_weights"].tolist()[0] == [0, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("pad_id", [0, 8])
def test_a_pad_id_that_is_trained_on_keeps_its_weight(pad_id: int) -> None:
    batch = collate([example(4), example(7)], pad_id=pad_id)
    assert batch["loss_weights"][0, 3] == 1.0  # its token is 8
    assert batch["loss_weights"].dtype == torch.float32
