from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from harness.data import Example
from harness.data.packing import joined
from harness.train.batches import collate, micro_batches
from harness.train.losses import example_scales, logits_at, objective, token_nll
from tests.train import tiny

CPU = torch.device("cpu")


def worked_example() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Random logits and labels with the first four of eight positions masked, drawn in this order."""
    torch.manual_seed(0)
    logits_BTV = torch.randn(2, 8, 50, requires_grad=True)
    labels_BT = torch.randint(0, 50, (2, 8))
    weights_BT = np.zeros((2, 8))
    weights_BT[:, 4:] = 1.0
    return logits_BTV, labels_BT, weights_BT


def reduced(reduction: str, logits_BTV: torch.Tensor, labels_BT: torch.Tensor, weights_BT: np.ndarray) -> torch.Tensor:
    scales_B = example_scales(reduction, weights_BT.sum(axis=1), group_size=1)
    factors_BT = torch.tensor(weights_BT * scales_B[:, None], dtype=torch.float32)
    return (token_nll(logits_BTV.flatten(0, 1), labels_BT.flatten()) * factors_BT.flatten()).sum()


def test_token_mean_worked_example_has_the_known_value() -> None:
    assert reduced("token_mean", *worked_example()).item() == pytest.approx(4.54317, abs=5e-6)


def test_token_mean_with_every_position_in_the_denominator_gives_the_known_wrong_value() -> None:
    logits, labels, weights = worked_example()
    wrong = reduced("sum", logits, labels, weights) / weights.size
    assert wrong.item() == pytest.approx(2.27159, abs=5e-6)


@pytest.mark.parametrize("reduction", ["token_mean", "micro_batch_mean", "example_mean", "sum"])
def test_reduction_without_any_weight_is_a_differentiable_zero(reduction: str) -> None:
    logits, labels, weights = worked_example()
    loss = reduced(reduction, logits, labels, np.zeros_like(weights))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) == 0


def test_token_mean_gradient_at_masked_logits_is_exactly_zero() -> None:
    logits, labels, weights = worked_example()
    reduced("token_mean", logits, labels, weights).backward()
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad[:, :4]) == 0
    assert (logits.grad[:, 4:].abs().sum(-1) > 0).all()


def test_scales_of_each_reduction_are_the_hand_computed_ones() -> None:
    weight_sums = np.array([1.0, 3.0, 0.0, 4.0])
    assert example_scales("sum", weight_sums, None) == pytest.approx([1, 1, 1, 1])
    assert example_scales("token_mean", weight_sums, None) == pytest.approx([1 / 8] * 4)
    # Groups of two weigh 4 and 4.
    assert example_scales("micro_batch_mean", weight_sums, 2) == pytest.approx([1 / 8] * 4)
    # Groups of three weigh 4 and 4; groups of one weigh 1, 3, 0 and 4, of which three count.
    assert example_scales("micro_batch_mean", weight_sums, 3) == pytest.approx([1 / 8] * 4)
    assert example_scales("micro_batch_mean", weight_sums, 1) == pytest.approx([1 / 3, 1 / 9, 0, 1 / 12])
    assert example_scales("example_mean", weight_sums, None) == pytest.approx([1 / 3, 1 / 9, 0, 1 / 12])


def by_row(scales: np.ndarray, rows: list[Example]) -> list[np.ndarray]:
    return np.split(scales, np.cumsum([row.num_examples for row in rows])[:-1])


@pytest.mark.parametrize("together", ["padded", "end_to_end", "packed"])
@pytest.mark.parametrize("reduction", ["token_mean", "micro_batch_mean", "example_mean", "sum"])
def test_objective_of_a_model_equals_plain_torch_on_full_logits(reduction: str, together: str) -> None:
    rows = tiny.examples(6)
    model, reference = tiny.llama(), tiny.llama()
    losses = []  # one tensor of masked token losses per example, from an unpadded forward pass each
    for row in rows:
        logits_TV = reference(torch.tensor(row.input_ids)[None]).logits[0]
        nll_T = nn.functional.cross_entropy(logits_TV[:-1], torch.tensor(row.input_ids)[1:], reduction="none")
        losses.append(nll_T[torch.tensor(row.loss_weights[1:]) > 0])
    expected = {
        "token_mean": torch.cat(losses).mean(),
        "micro_batch_mean": torch.stack([torch.cat(losses[:4]).mean(), torch.cat(losses[4:]).mean()]).mean(),
        "example_mean": torch.stack([loss.mean() for loss in losses]).mean(),
        "sum": torch.cat(losses).sum(),
    }[reduction]
    expected.backward()

    scales = example_scales(reduction, np.array([row.loss_weights.sum() for row in rows]), group_size=4)
    total = 0.0
    laid = [joined(rows[:2]), joined(rows[2:5]), rows[5]] if together == "packed" else rows
    alone = together != "padded"
    for batch in micro_batches(laid, by_row(scales, laid), size=2, device=CPU, end_to_end=alone):
        loss, _ = objective(model, batch)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(expected.item(), rel=1e-6)
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        # float32 sums over up to 84 positions in another order: a few units in the last place of the largest entry.
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6 * float(theirs.grad.abs().max()))


def test_objective_of_fractional_weights_is_their_weighted_mean() -> None:
    row = tiny.examples(1)[0]
    fractional = Example("row", row.input_ids, np.where(row.loss_weights > 0, 1.0, 0.25).astype(np.float32))
    model = tiny.llama()
    logits_TV = model(torch.tensor(row.input_ids)[None]).logits[0]
    nll_T = nn.functional.cross_entropy(logits_TV[:-1], torch.tensor(row.input_ids)[1:], reduction="none")
    weights_T = torch.tensor(fractional.loss_weights[1:])
    scales = example_scales("token_mean", np.array([fractional.loss_weights[1:].sum()]), None)
    loss, weighted_sum = objective(model, collate([fractional], [scales], CPU))
    assert loss.item() == pytest.approx(((nll_T * weights_T).sum() / weights_T.sum()).item(), rel=1e-6)
    assert weighted_sum.item() == pytest.approx((nll_T * weights_T).sum().item(), rel=1e-6)


def test_objective_sends_gradient_through_the_embeddings_of_prompt_tokens() -> None:
    row = Example("row", np.array([5, 6, 7, 8]), np.array([0, 0, 0, 1], dtype=np.float32))
    model = tiny.llama()
    states_BTH: list[torch.Tensor] = []
    model.get_input_embeddings().register_forward_hook(
        lambda *call: (call[2].retain_grad(), states_BTH.append(call[2]))[0]
    )
    objective(model, collate([row], [np.ones(1)], CPU))[0].backward()
    assert states_BTH[0].grad is not None
    norms_T = states_BTH[0].grad[0].norm(dim=-1)
    assert (norms_T[:3] > 0).all()  # the prompt and the state that predicts
    assert norms_T[3] == 0  # nothing is predicted from the last token


def test_objective_of_a_row_does_not_depend_on_what_it_is_padded_with() -> None:
    short, long = tiny.examples(1, longest=6)[0], tiny.examples(1, seed=3, longest=14)[0]
    silent = Example("silent", long.input_ids, np.zeros_like(long.loss_weights))
    model = tiny.llama()
    alone, _ = objective(model, collate([short], [np.ones(1)], CPU))
    padded, _ = objective(model, collate([short, silent], [np.ones(1)] * 2, CPU))
    assert len(short.input_ids) < len(long.input_ids)
    assert padded.item() == pytest.approx(alone.item(), rel=1e-6)


@pytest.mark.parametrize("build", [tiny.llama, tiny.lora])
def test_logits_at_positions_equal_the_full_logits_there(build) -> None:
    model = build().eval()
    ids_BT = torch.tensor(np.stack([np.arange(1, 9), np.arange(11, 19)]))
    weights = np.zeros((2, 8), dtype=np.float32)
    weights[[0, 0, 1, 1], [1, 4, 2, 7]] = 1.0
    batch = collate([Example("", *row) for row in zip(ids_BT.numpy(), weights, strict=True)], [np.ones(1)] * 2, CPU)
    assert batch.positions_K.tolist() == [0, 3, 9, 14]
    full_KV = model(input_ids=ids_BT).logits.flatten(0, 1)[batch.positions_K]
    torch.testing.assert_close(logits_at(model, batch), full_KV, rtol=1e-5, atol=1e-6)
    assert model(input_ids=ids_BT).logits.shape == (2, 8, tiny.VOCAB)
