"""Verdicts: by hand, over worlds, with trials missing, and against simulated sweeps whose truth is known."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import claims, render
from analysis.claims import decision
from analysis.report import read_verdicts
from analysis.stats import crossed_effect, pooled_over_worlds, unknown_effect
from analysis.verdicts import from_json, to_json, verdicts_frame
from harness.spec import Claim, Contrast, Scalar, Term
from tests.analysis.conftest import ARM
from tests.analysis.simulated import AXIS, DETECTABLE, KEY, METRICS, decided, difference, noisy, tables, verdict_of
from tests.analysis.synthetic import Plan, build
from tests.analysis.undrawn import write_undrawn

HAND = {
    (1.0, None, 0): [0.1, 0.4, 0.2, 0.3],
    (1.0, None, 1): [0.2, 0.5, 0.2, 0.1],
    (2.0, None, 0): [0.5, 0.6, 0.7, 0.4],
    (2.0, None, 1): [0.4, 0.9, 0.5, 0.4],
}


def intervals(**changes: tuple[float, float]) -> Any:
    """Return effects with given ends: the pooled one, and one a world."""
    return {name: replace(unknown_effect("", 0.0), low=low, high=high) for name, (low, high) in changes.items()}


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_contrast_equals_the_estimate_by_hand() -> None:
    found = decided(difference(), *tables(HAND))
    d = np.array([[0.4, 0.2], [0.2, 0.4], [0.5, 0.3], [0.1, 0.3]])
    items, seeds = d.mean(axis=1).var(ddof=1) / 4, d.mean(axis=0).var(ddof=1) / 2
    df = (items + seeds) ** 2 / (items**2 / 3 + seeds**2 / 1)
    half = scipy.stats.t.ppf(0.975, df) * math.sqrt(items + seeds)
    assert found.estimate == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half))
    assert (found.num_items, found.num_clusters, found.num_replicates, found.replicates) == (4, 4, 2, "2")
    assert found.verdict == "supported"


def test_contrast_weights_its_terms() -> None:
    terms = (
        Term(metric="learned", at=((AXIS, 2.0),), weight=2.0),
        Term(metric=KEY, at=((AXIS, 1.0),), weight=0.5),
    )
    found = decided(Contrast(terms=terms, expect="greater", margin=0.0), *tables(HAND))
    assert found.estimate == pytest.approx(2 * 0.55 + 0.5 * 0.25)


def test_contrast_of_deltas_is_that_of_scores_where_the_base_is_one() -> None:
    frame, items = tables(HAND, before={None: [0.1, 0.2, 0.0, 0.3]})
    after, delta = (decided(difference(value=value), frame, items) for value in ("after", "delta"))
    assert (delta.estimate, delta.low, delta.high) == pytest.approx((after.estimate, after.low, after.high))
    alone = Contrast(terms=(Term(metric="learned", value="delta", at=((AXIS, 2.0),)),), expect="greater", margin=0.0)
    assert decided(alone, frame, items).estimate == pytest.approx(0.55 - 0.15)


def test_contrast_of_two_metrics_sums_the_means_of_their_slices() -> None:
    frame, items = tables(HAND, val_loss={cell: 1.0 + cell[0] for cell in HAND})
    terms = (
        Term(metric="learned", at=((AXIS, 2.0),), weight=1.0),
        Term(metric="val_loss", at=((AXIS, 2.0),), weight=-1.0),
    )
    found = decided(Contrast(terms=terms, expect="less", margin=0.0), frame, items)
    assert found.estimate == pytest.approx(0.55 - 3.0)
    assert found.num_items == 0  # a number of the training has no items: seeds alone


@pytest.mark.parametrize(
    ("expect", "margin", "ends", "verdict", "why"),
    [
        ("greater", 0.1, (0.05, 0.4), "supported", ""),
        ("greater", 0.1, (-0.05, 0.4), "undecided", ""),
        ("greater", 0.1, (-0.4, -0.02), "contradicted", ""),
        ("greater", 0.1, (-0.09, 0.09), "contradicted", "shown to be smaller than the margin"),
        ("greater", 0.1, (0.01, 0.09), "contradicted", "shown to be smaller than the margin"),
        ("less", 0.1, (-0.4, -0.02), "supported", ""),
        ("less", 0.1, (0.05, 0.4), "contradicted", ""),
        ("less", 0.0, (-0.01, 0.01), "undecided", ""),
        ("equal", 0.1, (-0.1, 0.05), "supported", ""),
        ("equal", 0.1, (0.11, 0.2), "contradicted", ""),
        ("equal", 0.1, (0.05, 0.2), "undecided", ""),
        ("greater", 0.1, (math.nan, math.nan), "undecided", "there is no interval"),
    ],
)
def test_decision_by_interval(expect: str, margin: float, ends: tuple[float, float], verdict: str, why: str) -> None:
    (pooled,) = intervals(pooled=ends).values()
    assert decision(difference(expect, margin), pooled, [pooled]) == (verdict, why)


@pytest.mark.parametrize(
    ("expect", "ends", "world", "verdict"),
    [
        ("greater", (0.05, 0.4), (-0.3, -0.1), "undecided"),
        ("greater", (0.05, 0.4), (-0.3, 0.1), "supported"),
        ("greater", (-0.4, -0.05), (0.1, 0.3), "undecided"),
        ("greater", (-0.09, 0.09), (0.11, 0.3), "undecided"),
        ("less", (-0.4, -0.05), (0.1, 0.3), "undecided"),
        ("equal", (-0.09, 0.09), (0.11, 0.3), "undecided"),
        ("equal", (0.11, 0.3), (-0.05, 0.05), "undecided"),
    ],
)
def test_decision_needs_that_no_world_says_the_opposite(
    expect: str, ends: tuple[float, float], world: tuple[float, float], verdict: str
) -> None:
    pooled, other = intervals(pooled=ends, other=world).values()
    found = decision(difference(expect, 0.1), pooled, [pooled, other])
    assert found == (verdict, "worlds disagree" if verdict == "undecided" else "")


def test_claim_is_supported_by_all_parts_and_contradicted_by_one() -> None:
    frame, items = tables(HAND)
    up, down, open_ = difference("greater"), difference("less"), difference("equal", 0.3)
    assert verdict_of((up, up), frame, items).verdict == "supported"
    assert verdict_of((up, open_), frame, items).verdict == "undecided"
    assert verdict_of((up, open_, down), frame, items).verdict == "contradicted"


# -- worlds -----------------------------------------------------------------------------------------------------------


def test_worlds_are_strata_whose_effects_are_averaged() -> None:
    cells = noisy(0.1, np.random.default_rng(5), items=60)
    found = decided(difference(), *tables(cells))
    own = []
    for world in (0, 1):
        d = np.stack([cells[(2.0, world, s)] - cells[(1.0, world, s)] for s in range(5)], axis=1)
        own.append(crossed_effect(d, binary=True))
    variances = [(effect.se / 2) ** 2 for effect in own]
    df = sum(variances) ** 2 / sum(v**2 / effect.df for v, effect in zip(variances, own, strict=True))
    half = scipy.stats.t.ppf(0.975, df) * math.sqrt(sum(variances))
    mean = (own[0].estimate + own[1].estimate) / 2
    assert (found.estimate, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    assert (found.num_items, found.num_replicates, found.replicates) == (120, 10, "5 x 2")
    assert [world.estimate for world in found.worlds] == pytest.approx([effect.estimate for effect in own])


def test_worlds_of_equal_item_names_are_not_paired() -> None:
    """Both worlds call their items the same; that of one world must not meet that of the other."""
    up, down = [1.0, 1.0, 0.0, 0.0] * 10, [0.0, 0.0, 1.0, 1.0] * 10
    cells = {
        (rate, world, seed): up if world == 0 else down for rate in (1.0, 2.0) for world in (0, 1) for seed in (0, 1)
    }
    found = decided(difference("equal", 0.2), *tables(cells))
    assert found.estimate == 0
    assert found.verdict == "supported"
    assert "no item changed" in found.note


def test_worlds_that_disagree_are_undecided() -> None:
    noise = np.random.default_rng(0)
    cells = noisy(0.4, noise, worlds=(0,)) | noisy(-0.2, noise, worlds=(1,))
    found = decided(difference(), *tables(cells))
    assert found.low > 0
    assert (found.verdict, found.note) == ("undecided", "worlds disagree")


def test_world_without_variation_leaves_the_mean_without_an_interval() -> None:
    same = {(rate, 0, seed): [1.5, 2.5, 3.5] for rate in (1.0, 2.0) for seed in (0, 1)}
    cells = same | {(rate, 1, seed): v for (rate, _, seed), v in HAND.items()}
    found = decided(difference(), *tables(cells))
    assert found.estimate == pytest.approx(0.15)
    assert math.isnan(found.low)
    assert found.verdict == "undecided"


def test_exact_bound_enters_the_mean_of_worlds_as_an_interval_of_its_width() -> None:
    still = crossed_effect(np.zeros((100, 3)), binary=True)
    mean = pooled_over_worlds({0: still, 1: still})
    assert still.high == pytest.approx(1 - 0.025 ** (1 / 100))
    assert mean.high == pytest.approx(still.high / math.sqrt(2), rel=0.02)  # t instead of z, with 198 df
    assert mean.high > 1 - 0.025 ** (1 / 200)  # wider than the exact bound over all of them


def test_table_of_a_sweep_over_worlds_has_one_row_a_condition(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), worlds=(0, 1), scale=0.25))
    report = write_undrawn(store.root, folder)
    frame = pd.read_parquet(report.folder / "trials.parquet")
    assert frame.groupby("condition_id")["world"].agg(["nunique", "size"]).to_numpy().tolist() == [[2, 4], [2, 4]]
    effects = pd.read_csv(report.folder / "effects.csv")
    learned = effects[effects["target"] == "learned"]
    assert learned["num_seeds"].tolist() == [4, 4]
    for _, row in learned.iterrows():
        own = frame[frame["condition"] == row["condition"]].groupby("world")["delta/learned"].mean()
        assert row["delta"] == pytest.approx(own.mean())
    assert "Seeds x worlds per condition: 4, over 2 worlds." in report.table


# -- what is missing --------------------------------------------------------------------------------------------------


def test_replicate_without_a_term_is_left_out_and_counted() -> None:
    cells: dict[Any, Any] = noisy(0.3, np.random.default_rng(1))
    cells[(2.0, 1, 3)] = None
    found = decided(difference(), *tables(cells))
    assert (found.num_left_out, found.num_replicates, found.replicates) == (1, 9, "5 + 4")
    assert "1 replicates left out" in found.note


def test_fewer_than_two_replicates_decide_nothing_and_say_so() -> None:
    cells: dict[Any, Any] = noisy(0.9, np.random.default_rng(1), worlds=(None,), seeds=2)
    cells[(1.0, None, 0)] = None
    found = decided(difference(), *tables(cells))
    assert found.verdict == "undecided"
    assert "fewer than 2 replicates" in found.note
    assert math.isnan(found.estimate)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (difference(metric="retained"), "retained is not scored here"),
        (Contrast(terms=(Term(metric="learned", at=((AXIS, 3.0),)),), expect="less", margin=0.0), "0 conditions have"),
        (Contrast(terms=(Term(metric="learned", at=()),), expect="less", margin=0.0), "2 conditions have"),
    ],
)
def test_term_that_is_not_here_leaves_the_part_undecided(part: Contrast, reason: str) -> None:
    found = decided(part, *tables(HAND))
    assert found.verdict == "undecided"
    assert reason in found.note


def test_undecided_part_that_could_have_missed_its_margin_is_not_powered() -> None:
    cells = noisy(0.0, np.random.default_rng(2), items=20)
    frame, items = tables(cells)
    assert decided(difference(margin=0.01), frame, items).label == "undecided, not powered"
    assert verdict_of((difference(margin=0.01),), frame, items).label == "undecided, not powered"
    assert decided(difference("equal", 0.9), frame, items).label == "supported"


# -- known truth ------------------------------------------------------------------------------------------------------


def share_found(effect: float, num_sweeps: int, seed_sd: float = 0.03) -> tuple[float, float]:
    """Return in which share of simulated sweeps a difference is called either way, and the mean MDE."""
    noise = np.random.default_rng(7)
    sweeps = (tables(noisy(effect, noise, seed_sd=seed_sd)) for _ in range(num_sweeps))
    found = [decided(difference(), *sweep) for sweep in sweeps]
    return float(np.mean([part.low > 0 or part.high < 0 for part in found])), float(np.mean([p.mde for p in found]))


@pytest.mark.parametrize("seed_sd", [0.03, 0.15])
def test_equal_conditions_are_called_different_in_five_percent_at_most(seed_sd: float) -> None:
    """250 sweeps of 5 seeds x 2 worlds x 120 items, where items and where seeds dominate.

    A rate of 5 % gives more than 22 in 1 of 200 cases.
    """
    share, _ = share_found(0.0, 250, seed_sd)
    assert 0 < share * 250 <= 22  # more than none: intervals are not so wide that nothing is ever called different


def test_planted_effect_is_found_and_the_detectable_one_in_four_of_five() -> None:
    share, mde = share_found(DETECTABLE, 150)
    assert mde == pytest.approx(DETECTABLE, rel=0.05)
    assert 0.7 < share < 0.9  # 80 % at the MDE, less or more by 3 standard errors of 150 sweeps
    assert share_found(0.2, 40)[0] == 1.0


def test_interval_over_items_alone_is_caught_where_seeds_dominate(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 sweeps: at 5 % more than 9 in 1 of 1000 cases; without the seeds' share it is more than half of them."""
    assert share_found(0.0, 60, 0.15)[0] * 60 <= 9

    def items_only(differences: Any, *rest: Any, **more: Any) -> Any:
        effect = crossed_effect(differences.mean(axis=1, keepdims=True), *rest, **more)
        return replace(effect, num_seeds=differences.shape[1])

    monkeypatch.setattr(claims, "crossed_effect", items_only)
    assert share_found(0.0, 60, 0.15)[0] * 60 > 15


@settings(max_examples=8, deadline=None, derandomize=True)
@given(noise=st.randoms(use_true_random=False))
def test_contrast_does_not_depend_on_the_order_of_trials_and_items(noise: Any) -> None:
    frame, items = tables(noisy(0.1, np.random.default_rng(5), items=30), cluster_size=3)
    one = decided(difference(), frame, items)
    orders = [noise.sample(range(len(table)), len(table)) for table in (frame, items)]
    other = decided(difference(), frame.iloc[orders[0]], items.iloc[orders[1]])
    assert (one.label, one.note, one.num_clusters, one.trial_ids) == (
        *(other.label, other.note, other.num_clusters, other.trial_ids),
    )
    ends = [(part.estimate, part.low, part.high, part.mde) for part in (one, other)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)


# -- the trials behind it ---------------------------------------------------------------------------------------------


def test_contrast_names_the_trials_of_the_replicates_it_kept() -> None:
    cells: dict[Any, Any] = noisy(0.3, np.random.default_rng(1))
    cells[(2.0, 1, 3)] = None
    found = decided(difference(), *tables(cells))
    assert set(found.trial_ids) == {f"{v}-{w}-{s}" for v, w, s in cells if (w, s) != (1, 3)}


def test_description_length_is_a_number_that_a_claim_can_name() -> None:
    frame, items = tables(noisy(0.0, np.random.default_rng(1)))
    part = difference(metric="edl_bits")
    claim = Claim(id="B8", statement="s", source="s", published="p", parts=(part,))
    bits = {name: 100.0 * name.startswith("2.0") + index % 3 for index, name in enumerate(frame["trial_id"])}
    table = pd.DataFrame({"trial_id": list(bits), "edl_bits": list(bits.values()), "edl_bits_per_token": 0.0})
    (found,) = claims.decide((claim,), claims.with_edl(frame, (claim,), lambda: table), items, METRICS)
    wanted = np.mean([bits[f"2.0-{w}-{s}"] - bits[f"1.0-{w}-{s}"] for w in (0, 1) for s in range(5)])
    assert (found.parts[0].estimate, found.verdict) == (pytest.approx(wanted), "supported")
    other = claim.model_copy(update={"parts": (difference(),)})
    assert claims.with_edl(frame, (other,), lambda: pytest.fail("was made for nothing")) is frame


# -- published --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "place"), [(0.3, "inside"), (0.9, "outside"), (-0.3, "outside")])
def test_published_value_is_printed_beside_our_interval(value: float, place: str) -> None:
    claim = Claim(
        **{"id": "X", "statement": "s", "source": "s", "published": "14.7 vs 46.5", "parts": (difference(),)},
        published_value=value,
        published_unit="difference of exact match",
    )
    (found,) = claims.decide((claim,), *tables(HAND), METRICS)
    assert found.published_place == place
    assert found.published_text == f"14.7 vs 46.5; {value:g} (difference of exact match): {place} ours"
    row = verdicts_frame((found,)).iloc[0]
    assert (row["published_value"], row["published_place"]) == (value, place)
    assert found.verdict == "supported"  # it decides nothing


def test_published_value_without_an_interval_or_of_another_part_says_so() -> None:
    absent = difference(metric="retained")
    claim = Claim(
        **{"id": "X", "statement": "s", "source": "s", "published": "p", "parts": (difference(), absent)},
        published_value=0.3,
        published_unit="points",
        published_part=1,
    )
    (found,) = claims.decide((claim,), *tables(HAND), METRICS)
    assert found.published_text == "p; 0.3 (part 2, points): no interval of ours"
    assert verdicts_frame((found,))["published_place"].tolist() == ["", "no interval"]
    plain = verdict_of((difference(),), *tables(HAND))
    assert (plain.published_place, plain.published_text) == ("", "p")


# -- files ------------------------------------------------------------------------------------------------------------


def claim_of(statement: str = "more teaches more", *places: Scalar) -> Claim:
    low, high = places or (25, 400)
    terms = tuple(
        Term(metric="learned", at=(("data.num_examples", value),), weight=weight)
        for value, weight in ((high, 1.0), (low, -1.0))
    )
    part = Contrast(terms=terms, expect="greater", margin=0.05)
    return Claim(id="B4", statement=statement, source="arXiv", published="14.7 vs 46.5", parts=(part,))


def test_report_begins_with_its_verdicts_and_writes_them(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> | =1+1"
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.25, claims=(claim_of(hostile),))
    store, folder = build(tmp_path, plan)
    report = write_undrawn(store.root, folder)
    page, text = ((report.folder / name).read_text() for name in ("report.html", "report.md"))
    assert "<script>alert" not in page
    assert page.index('<section id="claims">') < page.index('<section id="summary">')
    assert "SUPPORTED" in report.table
    assert text.index("## Claims") < text.index("## Before, after")
    assert "\\| \\=1" in text or "\\| =1" in text
    rows = pd.read_parquet(report.folder / "verdicts.parquet")
    assert rows[["claim", "claim_verdict"]].to_numpy().tolist() == [["B4", "supported"]]
    assert (report.folder / "verdicts.csv").is_file()


def test_verdicts_of_the_report_are_those_of_the_records(tmp_path: Path) -> None:
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), worlds=(0, 1), scale=0.25, claims=(claim_of(),))
    store, folder = build(tmp_path, plan)
    fresh = read_verdicts(store.root, folder)
    assert not (store.sweep(folder) / "report.json").exists()  # nothing is written
    write_undrawn(store.root, folder)
    standing = read_verdicts(store.root, folder)
    pd.testing.assert_frame_equal(verdicts_frame(fresh), verdicts_frame(standing))
    next(store.root.glob("trials/*/result.json")).unlink()
    (now,) = read_verdicts(store.root, folder)
    assert (now.num_open, now.num_trials) == (1, 8)
    assert "1 of 8 trials have no result yet" in now.note


def test_report_without_claims_has_no_trace_of_them(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.1))
    report = write_undrawn(store.root, folder)
    assert not (report.folder / "verdicts.csv").exists()
    assert "Claims" not in (report.folder / "report.html").read_text()
    assert read_verdicts(store.root, folder) == ()


def test_report_writes_a_table_for_latex_for_each_claim_and_for_all(tmp_path: Path) -> None:
    hostile = r"\input{/etc/passwd} 100 % & $x_1$ {~^#}"
    claim, other = claim_of(hostile), claim_of().model_copy(update={"id": "B5"})
    plan = Plan(values=(25, 400), arms=(ARM,), seeds=(0, 1), scale=0.25, claims=(claim, other))
    store, folder = build(tmp_path, plan)
    report = write_undrawn(store.root, folder)
    one, whole = ((report.folder / name).read_text() for name in ("claims/B4.tex", "claims.tex"))
    assert "\\input" not in one
    assert r"\textbackslash{}input\{/etc/passwd\} 100 \% \& \$x\_1\$" in one
    assert [text.count(r"\midrule") for text in (one, whole)] == [1, 2]
    body = [line for line in one.splitlines() if not line.startswith("%")]
    rows = [line for line in body if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {7}
    assert (body[0].split("{")[1], body[-1]) == ("tabular}", r"\end{tabular}")
    (trials,) = pd.read_csv(report.folder / "verdicts.csv").query("claim == 'B4'")["trial_ids"]
    assert f"trials {trials}" in one
    assert set(trials.split()) == set(pd.read_csv(report.folder / "trials.csv")["trial_id"])


def test_latex_of_verdicts_writes_minus_signs_and_what_is_unknown() -> None:
    down = decided(difference("less"), *tables({(3 - v, w, s): y for (v, w, s), y in HAND.items()}))
    text = render.claims_latex([verdict_of((difference("less"), difference(metric="retained")), *tables(HAND))])
    assert "supported" in render.claims_latex(
        [replace(verdict_of((difference("less"),), *tables(HAND)), parts=(down,))]
    )
    assert text.count("---") >= 2
    assert "\u2212" not in text
    assert "\u2014" not in text


def test_verdicts_survive_json_with_their_trials() -> None:
    found = (verdict_of((difference(),), *tables(HAND)),)
    back = from_json(json.loads(json.dumps(to_json(found))))
    pd.testing.assert_frame_equal(verdicts_frame(back), verdicts_frame(found))
    assert back[0].parts[0].trial_ids == found[0].parts[0].trial_ids
    assert back[0].parts[0].worlds == found[0].parts[0].worlds
