"""Rank, share and confidence in closed sets against scipy, numbers by hand and the records of made-up sweeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax
from scipy.stats import rankdata

from analysis import load_choices, numbers
from analysis.choices import CHOICE_COLUMNS, DAMAGED, NOT_KEPT, WRITTEN, choices_beside
from analysis.closed_set import BETTER, LOG_SHARE, closed_set_frame, closed_set_table, measures_of
from analysis.context import Context
from analysis.items import TRIAL_KEYS
from analysis.knowledge import NO_CHOICES, bits_table, closed_bits
from analysis.opened import open_sweep
from analysis.sections import knowledge
from analysis.stats import crossed_effect, pooled_over_worlds
from analysis.studies import without_intervals
from harness.evals.choices import SCHEMA
from harness.records.store import Store
from tests.analysis.conftest import ARM
from tests.analysis.synthetic import Plan, build
from tests.analysis.undrawn import write_undrawn

ITEM = ["suite", "task", "item_id"]
PLAN = {"values": (25, 400), "arms": (ARM,), "seeds": (0, 1, 2), "scale": 0.25}


def sets(*logprobs: list[float], gold: int = 0, task: str = "cloze") -> pd.DataFrame:
    """Return the choices of items with these log-probabilities."""
    return pd.DataFrame(
        [
            {"suite": "people", "task": task, "item_id": f"i{number}", "choice": place, "logprob": value}
            | {"num_bytes": 4, "is_gold": place == gold}
            for number, own in enumerate(logprobs)
            for place, value in enumerate(own)
        ],
        columns=list(WRITTEN),
    )


# -- one item ---------------------------------------------------------------------------------------------------------


def test_rank_and_share_are_those_of_scipy_in_sets_of_any_size() -> None:
    noise = np.random.default_rng(0)
    rows = [noise.normal(-20, 6, size=noise.integers(1, 12)).tolist() for _ in range(200)]
    places = [int(noise.integers(len(own))) for own in rows]
    frames = [
        sets(own, gold=gold).assign(item_id=f"i{n}") for n, (own, gold) in enumerate(zip(rows, places, strict=True))
    ]
    found = measures_of(pd.concat(frames, ignore_index=True).sample(frac=1, random_state=1))
    found = found.set_index("item_id").loc[[f"i{n}" for n in range(200)]]
    shares = [log_softmax(own) for own in rows]
    pairs = list(zip(shares, places, strict=True))
    assert found["num_choices"].tolist() == [len(own) for own in rows]
    assert found[LOG_SHARE].to_numpy() == pytest.approx([own[gold] for own, gold in pairs])
    assert found["gold_share"].to_numpy() == pytest.approx([math.exp(own[gold]) for own, gold in pairs])
    assert found["gold_rank"].tolist() == [rankdata(-np.array(own), method="ordinal")[g] for own, g in pairs]
    assert found["confident"].tolist() == [float(np.exp(own).max() > 0.5) for own in shares]
    wrong = [float(np.exp(own).max() > 0.5 and own.argmax() != gold) for own, gold in pairs]
    assert found["confident_wrong"].tolist() == wrong
    assert 0 < np.mean(wrong) < found["confident"].mean() < 1


def test_of_equal_choices_the_first_counts_as_in_acc() -> None:
    tied = [-2.0, -1.0, -1.0, -1.0]
    ranks = [float(measures_of(sets(tied, gold=gold))["gold_rank"].iloc[0]) for gold in range(4)]
    assert ranks == list(rankdata(-np.array(tied), method="ordinal")) == [4.0, 1.0, 2.0, 3.0]
    assert [rank == 1 for rank in ranks] == [int(np.argmax(tied)) == gold for gold in range(4)]


def test_half_of_the_probability_is_not_confident_and_more_is() -> None:
    alike = [[float(shift)] * 2 for shift in np.arange(-40, 0, 0.1)]  # for some, log(2 e^shift) - shift is below log 2
    assert set(measures_of(sets(*alike))["confident"]) == {0.0}
    found = measures_of(sets(np.log([0.51, 0.49]).tolist(), np.log([0.3, 0.4, 0.3]).tolist(), gold=1))
    assert found["confident"].tolist() == [1.0, 0.0]
    assert found["confident_wrong"].tolist() == [1.0, 0.0]


def test_a_long_value_of_tiny_probability_keeps_its_share() -> None:
    found = measures_of(sets([-900.0, -900.0 - math.log(3)]))
    assert found["gold_share"].tolist() == pytest.approx([0.75])


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_set_that_was_not_measured_as_a_whole_is_unknown_and_leaves_its_neighbours(broken: float) -> None:
    found = measures_of(sets([-1.0, -2.0], [-1.0, broken], [-1.0, -2.0]))
    assert found["gold_rank"].isna().tolist() == [False, True, False]
    for name in (*BETTER, LOG_SHARE):
        assert found[name].isna().tolist() == [False, True, False]
    assert found["num_choices"].tolist() == [2, 2, 2]


def test_a_set_without_one_right_choice_is_unknown() -> None:
    none, two = sets([-1.0, -2.0]).assign(is_gold=False), sets([-1.0, -2.0]).assign(is_gold=True)
    both = pd.concat([none, two.assign(item_id="other"), sets([-1.0]).assign(item_id="last")], ignore_index=True)
    assert measures_of(both)["gold_share"].isna().tolist() == [True, True, False]
    assert measures_of(both.iloc[:0]).empty


# -- records ----------------------------------------------------------------------------------------------------------


def add_choices(store: Store, num_choices: int = 4) -> None:
    """Write choices beside every model's items, drawn at random but for the gold one, whose value stands there."""
    for path in [*store.root.glob("trials/*/items.parquet"), *store.root.glob("artefacts/before/*/items.parquet")]:
        items = pd.read_parquet(path)
        own = items[(items["task"] == "cloze") & (items["metric"] == "gold_logprob")]
        noise = np.random.default_rng(len(str(path.parent.name)) + int(own["value"].sum() * 1e6) % 997)
        logprobs = noise.normal(-2.5, 1.0, size=(len(own), num_choices))
        gold = np.arange(len(own)) % num_choices
        logprobs[np.arange(len(own)), gold] = own["value"]
        table = own[ITEM].loc[own.index.repeat(num_choices)].assign(
            choice=np.tile(np.arange(num_choices), len(own)),
            logprob=logprobs.ravel(),
            num_bytes=5,
            is_gold=(np.arange(num_choices)[None] == gold[:, None]).ravel(),
        )  # fmt: skip
        table.to_parquet(path.with_name("choices.parquet"), index=False)


def opened(root: Path, **plan: Any) -> Context:
    store, folder = build(root, Plan(**(PLAN | plan)))
    add_choices(store)
    return Context(open_sweep(store, folder))


def closed_of(context: Context) -> pd.DataFrame:
    return closed_set_frame(context.sweep, context.items)


def again(context: Context, measure: str) -> pd.DataFrame:
    """Return a measure per trial and test item, before and after, by scipy from the files themselves."""
    split = context.items.query("task == 'cloze' and metric == 'acc' and split == 'test'")
    rows: list[dict[str, Any]] = []
    for trial, result in context.sweep.finished:
        assert result.after is not None
        wanted = set(split[split["trial_id"] == trial.planned.trial_id]["item_id"])
        sides = {}
        for side, scores in (("before", result.before), ("after", result.after)):
            table = pd.read_parquet((context.sweep.store.root / scores.items_file).with_name("choices.parquet"))
            values = table["logprob"].to_numpy().reshape(-1, 4)
            gold = table["is_gold"].to_numpy().reshape(-1, 4).argmax(axis=1)
            share = log_softmax(values, axis=1)
            rank = rankdata(-values, axis=1, method="ordinal")
            found = {
                "gold_rank": rank[np.arange(len(gold)), gold],
                "gold_share": np.exp(share[np.arange(len(gold)), gold]),
                "confident_wrong": (np.exp(share).max(axis=1) > 0.5) & (share.argmax(axis=1) != gold),
                "bits": np.maximum(0, 2 + share[np.arange(len(gold)), gold] / math.log(2)),
            }
            sides[side] = dict(zip(table["item_id"].to_numpy()[::4], found[measure].astype(float), strict=True))
        rows += [
            {"condition": trial.condition, "seed": trial.planned.seed, "world": trial.planned.world, "item_id": item}
            | {side: values[item] for side, values in sides.items()}
            for item in sides["before"]
            if item in wanted
        ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("measure", ["gold_rank", "gold_share", "confident_wrong"])
def test_table_has_the_means_and_the_crossed_interval_of_items_and_seeds(measure: str, tmp_path: Path) -> None:
    context = opened(tmp_path)
    table = closed_set_table(closed_of(context)).query("measure == @measure").set_index("condition")
    people = context.items.query("task == 'cloze'").drop_duplicates("item_id").set_index("item_id")["cluster"]
    for condition, own in again(context, measure).groupby("condition"):
        wide = own.pivot(index="item_id", columns="seed", values=["before", "after"])
        clusters = people.loc[wide.index].astype(str).tolist()
        differences = (wide["after"] - wide["before"]).to_numpy()
        effect = crossed_effect(differences, clusters, binary=measure == "confident_wrong")
        row = table.loc[condition]
        assert (row["num_items"], row["num_seeds"], row["num_choices"]) == (60, 3, 4.0)
        assert (row["before"], row["after"]) == pytest.approx((own["before"].mean(), own["after"].mean()))
        assert (row["delta"], row["low"], row["high"]) == pytest.approx((effect.estimate, effect.low, effect.high))
        assert row["low"] < row["delta"] < row["high"]
        assert row["better"] == ("more" if measure == "gold_share" else "less")
        assert len(row["trial_ids"].split()) == 3
        assert row["note"] == effect.note


def test_confident_errors_are_wrong_and_one_seed_has_an_interval_of_items_alone(tmp_path: Path) -> None:
    closed = closed_of(opened(tmp_path, seeds=(0,)))
    assert closed["confident_wrong_after"].sum() > 0
    assert (closed["confident_wrong_after"] <= closed["confident_after"]).all()
    assert (closed.loc[closed["confident_wrong_after"] == 1, "gold_rank_after"] > 1).all()
    row = closed_set_table(closed).iloc[0]
    assert (row["num_seeds"], row["kind"]) == (1, "items only")


def test_worlds_are_strata_and_their_means_count_alike(tmp_path: Path) -> None:
    context = opened(tmp_path, worlds=(0, 1), values=(25, 400), seeds=(0, 1))
    table = closed_set_table(closed_of(context)).query("measure == 'gold_share'").set_index("condition")
    people = context.items.query("task == 'cloze'").drop_duplicates("item_id").set_index("item_id")["cluster"]
    for condition, own in again(context, "gold_share").groupby("condition"):
        effects = {}
        for world, part in own.groupby("world"):
            wide = part.pivot(index="item_id", columns="seed", values=["before", "after"])
            clusters = people.loc[wide.index].astype(str).tolist()
            effects[world] = crossed_effect((wide["after"] - wide["before"]).to_numpy(), clusters)
        pooled, row = pooled_over_worlds(effects), table.loc[condition]
        assert (row["num_items"], row["num_seeds"]) == (120, 4)
        assert (row["delta"], row["low"], row["high"]) == pytest.approx((pooled.estimate, pooled.low, pooled.high))
        assert row["after"] - row["before"] == pytest.approx(row["delta"])


def test_an_item_unknown_under_one_seed_is_left_out_under_all_and_counted(tmp_path: Path) -> None:
    context = opened(tmp_path)
    path = context.sweep.trials[0].folder / "choices.parquet"
    table = pd.read_parquet(path)
    item = closed_of(context)["item_id"].iloc[0]
    table.loc[(table["item_id"] == item) & (table["choice"] == 1), "logprob"] = None
    table.to_parquet(path)
    found = closed_set_table(closed_of(context)).query("measure == 'gold_rank'").set_index("condition")
    assert sorted(found["num_items"]) == [59, 60]
    note = found.loc[context.sweep.trials[0].condition, "note"]
    assert note == "1 items are not known on both sides under every seed"


def test_a_trial_without_the_file_is_left_out_by_name_and_never_a_zero(tmp_path: Path) -> None:
    context = opened(tmp_path)
    first, second, third = context.sweep.trials[:3]
    (first.folder / "choices.parquet").unlink()
    (second.folder / "choices.parquet").write_bytes(b"PAR1 torn")
    row = closed_set_table(closed_of(context)).set_index("condition").loc[first.condition].iloc[0]
    assert (row["num_seeds"], row["num_items"], row["trial_ids"]) == (1, 60, third.planned.trial_id)
    assert f"1 of 3 trials: {NOT_KEPT}" in row["note"]
    assert f"1 of 3 trials: {DAMAGED}" in row["note"]


def test_a_store_without_the_file_says_so_and_keeps_its_report(tmp_path: Path) -> None:
    store, folder = build(tmp_path, Plan(**PLAN))
    context = Context(open_sweep(store, folder))
    table = closed_set_table(closed_of(context))
    assert set(table["note"]) == {NOT_KEPT}
    assert table[["before", "after", "delta", "low"]].isna().all(axis=None)
    assert (table["num_items"] == 0).all()
    assert load_choices("lima_size", out=store.root).empty
    assert knowledge.compute(context) == "the records do not say how many values a fact can have"
    for path in store.root.rglob("items.parquet"):
        items = pd.read_parquet(path)
        items.assign(chance=[1 / 4 if metric == "acc" else math.nan for metric in items["metric"]]).to_parquet(path)
    section = knowledge.compute(Context(open_sweep(store, folder)))
    assert not isinstance(section, str)
    assert [text for _, text in section.content["bits"]] == ["of all texts"]
    assert (section.content["closed"], section.content["why_no_closed"]) == ([], NOT_KEPT)
    assert {row["closed_note"] for row in section.content["rows"]} == {NOT_KEPT}
    assert set(knowledge.files(section)) == {"knowledge_bits.csv"}
    add_choices(store)
    for path in store.root.glob("artefacts/before/*/choices.parquet"):
        path.unlink()
    assert set(closed_set_table(closed_of(context))["note"]) == {NOT_KEPT}  # an after alone has no difference


# -- bits -------------------------------------------------------------------------------------------------------------


def test_closed_bits_are_the_sums_by_hand_and_leave_the_lower_bound_as_it_was(tmp_path: Path) -> None:
    context = opened(tmp_path)
    closed = closed_of(context)
    table, plain = bits_table(context.items, closed=closed), bits_table(context.items)
    old = [name for name in plain.columns if not name.startswith("closed_")]
    pd.testing.assert_frame_equal(table[old], plain[old])
    for condition, own in again(context, "bits").groupby("condition"):
        row = table.set_index("condition").loc[condition]
        wide = own.pivot(index="item_id", columns="seed", values=["before", "after"])
        before, after = wide["before"].to_numpy(), wide["after"].to_numpy()
        sums = [side.mean(axis=1).sum() for side in (before, after, np.minimum(before, after))]
        assert row["closed_bits_possible"] == pytest.approx(2 * 60)
        assert (row["closed_bits_before"], row["closed_bits_after"]) == pytest.approx(sums[:2])
        assert row["closed_retention"] == pytest.approx(sums[1] / sums[0])
        assert row["closed_kept"] == pytest.approx(sums[2] / sums[0])
        assert row["closed_kept"] < row["closed_retention"]
        assert row["closed_delta_per_fact"] == pytest.approx((sums[1] - sums[0]) / 60)
        assert row["closed_low"] < row["closed_delta_per_fact"] < row["closed_high"]
        assert (row["closed_num_facts"], row["closed_num_seeds"]) == (60, 3)


def test_closed_bits_are_never_below_the_lower_bound(tmp_path: Path) -> None:
    context = opened(tmp_path)
    bound = bits_table(context.items, {"people/cloze": 1 / 4}, closed_of(context))
    assert (bound["closed_bits_before"] > bound["bits_before"]).all()
    assert (bound["bits_possible"] == bound["closed_bits_possible"]).all()


def test_closed_bits_add_worlds_up(tmp_path: Path) -> None:
    context = opened(tmp_path, worlds=(0, 1), seeds=(0, 1))
    table = bits_table(context.items, closed=closed_of(context)).set_index("condition")
    for condition, own in again(context, "bits").groupby("condition"):
        assert table.loc[condition, "closed_num_facts"] == 120
        assert table.loc[condition, "closed_bits_after"] == pytest.approx(own["after"].sum() / 2)


def test_closed_bits_of_a_guess_are_none_and_their_retention_is_unknown() -> None:
    assert closed_bits(None) == {"closed_num_facts": 0, "closed_note": NO_CHOICES}
    item = dict.fromkeys(TRIAL_KEYS, "c") | {"seed": 0, "world": None, "suite": "s", "task": "t", "not_kept": ""}
    values = {f"{name}_{side}": 1.0 for name in BETTER for side in ("before", "after")}
    values |= {f"{LOG_SHARE}_before": math.log(1 / 4), f"{LOG_SHARE}_after": 0.0}
    rows = pd.DataFrame([item | values | {"item_id": name, "cluster": name, "num_choices": 4} for name in "abc"])
    found = closed_bits(rows)
    assert (found["closed_bits_before"], found["closed_bits_after"]) == pytest.approx((0.0, 6.0))
    assert math.isnan(float(str(found["closed_retention"])))
    assert math.isnan(float(str(found["closed_kept"])))


# -- loading ----------------------------------------------------------------------------------------------------------


def test_load_choices_has_every_choice_before_and_after_with_its_columns(tmp_path: Path) -> None:
    context = opened(tmp_path, quantised=True, seeds=(0, 1))
    frame = load_choices("lima_size", out=tmp_path)
    assert list(frame.columns) == [*TRIAL_KEYS, *CHOICE_COLUMNS]
    assert set(WRITTEN) == set(SCHEMA.names)
    assert len(frame) == 4 * 80 * 4
    for trial, result in context.sweep.finished:
        own = frame[frame["trial_id"] == trial.planned.trial_id]
        assert result.after is not None
        assert result.before_full_precision is not None
        sides = {"before": result.before, "after": result.after, "before_full_precision": result.before_full_precision}
        for side, scores in sides.items():
            path = (tmp_path / scores.items_file).with_name("choices.parquet")
            assert own[side].tolist() == pd.read_parquet(path)["logprob"].tolist()
    assert frame["item_id"].dtype == "category"
    assert frame["choice"].dtype == "int64"


def test_load_choices_keeps_a_side_that_is_there_alone(tmp_path: Path) -> None:
    context = opened(tmp_path, seeds=(0, 1))
    first, second = context.sweep.trials[:2]
    (first.folder / "choices.parquet").unlink()
    table = pd.read_parquet(second.folder / "choices.parquet")
    table.iloc[4:].to_parquet(second.folder / "choices.parquet")
    frame = load_choices("lima_size", out=tmp_path)
    lacks, short = (frame[frame["trial_id"] == trial.planned.trial_id] for trial in (first, second))
    assert len(lacks) == len(short) == 320
    assert lacks["after"].isna().tolist() == [True] * 320
    assert lacks["before"].notna().tolist() == [True] * 320
    assert int(short["after"].isna().sum()) == 4
    assert set(frame["num_bytes"]) == {5}


def test_damaged_tables_of_choices_are_named_and_read_as_none(tmp_path: Path) -> None:
    path = tmp_path / "choices.parquet"
    whole = sets([-1.0, -2.0])
    whole.to_parquet(path)
    assert isinstance(choices_beside(tmp_path / "items.parquet"), pd.DataFrame)
    broken = {
        "no column": whole.drop(columns="logprob"),
        "text": whole.assign(logprob="<script>1</script>"),
        "twice": pd.concat([whole, whole], ignore_index=True),
        "no item": whole.assign(item_id=None),
        "no number": whole.assign(choice=math.nan),
    }
    for name, table in broken.items():
        table.to_parquet(path)
        assert choices_beside(tmp_path / "items.parquet") == DAMAGED, name
    path.write_bytes(b"PAR1 torn")
    assert choices_beside(tmp_path / "items.parquet") == DAMAGED
    assert choices_beside(tmp_path / "elsewhere" / "items.parquet") == NOT_KEPT


# -- report -----------------------------------------------------------------------------------------------------------


def test_report_shows_and_writes_the_closed_set_and_both_kinds_of_bits(tmp_path: Path) -> None:
    context = opened(tmp_path, seeds=(0,), scale=0.1)
    folder = write_undrawn(tmp_path, context.sweep.folder).folder
    page, text = ((folder / f"report.{kind}").read_text() for kind in ("html", "md"))
    page, text = page.split('<section id="knowledge">')[1].split("</section>")[0], text.split("## Knowledge")[1]
    table = pd.read_csv(folder / "closed_set.csv")
    assert set(table["measure"]) == set(BETTER)
    bits = pd.read_csv(folder / "knowledge_bits.csv")
    for shown in (page, text):
        assert numbers.score(table["delta"].iloc[0], signed=True) in shown
        assert numbers.quantity(bits["closed_bits_after"].iloc[0]) in shown
        assert "confident and wrong" in shown
        assert "of the set" in shown
    assert 'id="knowledge-closed"' in page
    assert ">nan" not in page
    assert not write_undrawn(tmp_path, context.sweep.folder).rebuilt
    (context.sweep.trials[0].folder / "choices.parquet").unlink()
    assert write_undrawn(tmp_path, context.sweep.folder).rebuilt


def test_a_study_has_the_measures_and_no_interval(tmp_path: Path) -> None:
    context = opened(tmp_path, seeds=(0, 1))
    closed = closed_of(context)
    table, bits = (
        without_intervals(closed_set_table(closed)),
        without_intervals(bits_table(context.items, closed=closed)),
    )
    assert table["delta"].notna().all()
    assert table[["low", "high", "p_value", "se"]].isna().all(axis=None)
    assert bits[["closed_low", "closed_high"]].isna().all(axis=None)
