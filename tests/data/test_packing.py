from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.data import Example
from harness.data.packing import best_fit, by_likeness, in_windows, packed
from harness.data.prepare import rows_sha256
from harness.identity import canonical_json
from tests.data.tiny import spec
from tests.presence import package


def example(name: str, ids: list[int]) -> Example:
    weights = np.ones(len(ids), dtype=np.float32)
    weights[0] = 0.0
    return Example(name, np.array(ids, dtype=np.int64), weights)


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 32), max_size=80),
    window=st.integers(1, 8),
    order=st.randoms(use_true_random=False),
)
def test_packs_hold_every_item_once_and_never_too_much(lengths: list[int], window: int, order: object) -> None:
    for bins in (best_fit(lengths, 32), in_windows(range(len(lengths)), lengths, 32, window)):
        assert sorted(item for chosen in bins for item in chosen) == list(range(len(lengths)))
        assert all(sum(lengths[item] for item in chosen) <= 32 for chosen in bins)
        assert all(bins)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 32), max_size=80))
def test_best_fit_leaves_no_two_bins_that_would_fit_into_one(lengths: list[int]) -> None:
    levels = sorted(sum(lengths[item] for item in chosen) for chosen in best_fit(lengths, 32))
    assert len(levels) < 2 or levels[0] + levels[1] > 32


def test_best_fit_is_at_least_as_full_as_trl_on_log_normal_lengths() -> None:
    datasets = package("datasets")
    packing = package("trl.data_utils")
    stream = np.random.default_rng(0)
    lengths = np.clip(stream.lognormal(5.2, 0.8, size=5000), 4, 1024).astype(int)
    rows = datasets.Dataset.from_dict({"input_ids": [[1] * length for length in lengths]})
    theirs = len(packing.pack_dataset(rows, seq_length=1024, strategy="bfd"))
    ours = len(best_fit(lengths.tolist(), 1024))
    assert ours <= theirs
    assert lengths.sum() / (ours * 1024) >= 0.996


def test_packed_rows_are_their_examples_laid_end_to_end() -> None:
    examples = [example(name, ids) for name, ids in (("a", [1, 2, 3, 4, 5]), ("b", [6, 7]), ("c", [8, 9, 1]))]
    rows = packed(examples, spec(packing="isolated", max_length=8))
    assert [row.row_id for row in rows] == ["a+c", "b"]
    first = rows[0]
    assert first.input_ids.tolist() == [1, 2, 3, 4, 5, 8, 9, 1]
    assert first.loss_weights.tolist() == [0, 1, 1, 1, 1, 0, 1, 1]
    assert (first.lengths, first.starts.tolist(), first.weight_sums.tolist()) == ((5, 3), [0, 5], [4.0, 2.0])


def test_where_examples_meet_is_part_of_the_hash_of_rows() -> None:
    examples = [example("a", [1, 2, 3, 4]), example("b", [5, 6, 7, 8])]
    (together,) = packed(examples, spec(packing="isolated", max_length=8))
    apart = Example("a+b", together.input_ids, together.loss_weights)
    assert rows_sha256([together], []) != rows_sha256([apart], [])


def test_similar_neighbours_share_rows_more_often_than_those_that_fit_best() -> None:
    stream = np.random.default_rng(0)
    topics = [np.arange(start, start + 40) for start in (0, 40, 80, 120)]
    kinds = stream.permutation(np.repeat(np.arange(4), 50))
    examples = [
        example(f"{kind}", stream.choice(topics[kind], size=int(stream.integers(4, 30))).tolist()) for kind in kinds
    ]

    def alike(neighbours: str) -> float:
        rows = packed(examples, spec(packing="isolated", pack_neighbours=neighbours, max_length=128))
        pairs = [(a, b) for row in rows for a, b in zip(row.row_id.split("+"), row.row_id.split("+")[1:], strict=False)]
        return float(np.mean([a == b for a, b in pairs]))

    assert alike("similar") > 0.9
    assert alike("random") < 0.5


def test_likeness_takes_every_document_once_even_without_common_tokens() -> None:
    for documents in ([], [np.array([1])], [np.array([n, n]) for n in range(5)], [np.array([7, 7])] * 4):
        assert sorted(by_likeness(documents)) == list(range(len(documents)))


def test_similar_neighbours_without_packing_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"data\.pack_neighbours is 'similar', but must be 'random'"):
        spec(pack_neighbours="similar")


def test_packing_off_has_the_id_it_always_had() -> None:
    assert "pack_neighbours" not in canonical_json(spec())
