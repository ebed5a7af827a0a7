"""Known facts against counts by hand, an independent interval, and the generator of the pocket world."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from analysis import numbers
from analysis.context import Context
from analysis.known import FACT_SLICES, GRADES, counted, facts_frame, grades, known_table, with_facts
from analysis.opened import open_sweep
from analysis.sections import knowledge
from analysis.studies import without_intervals
from experiments.pocket import WORLD
from harness.pocket.items import ALL_SLICES, items
from harness.pocket.people import ATTRIBUTES, population
from harness.pocket.slices_people import Cloze, Plain
from harness.records.store import Store
from harness.spec import FileItems, PocketItems
from tests.analysis.synthetic import Plan, build
from tests.analysis.undrawn import write_undrawn


def asked(facts: dict[str, tuple[str, str]], seed: int = 0, **columns: Any) -> pd.DataFrame:
    """Return the rows of one trial: 'person value' -> right or wrong ('1', '0', '?') by phrasing, before and after.

    A wrong answer's value has a probability of 1e-9: no sample gives it.
    """
    value = {"1": 1.0, "0": 0.0, "?": math.nan}
    logprob = {"1": math.log(0.5), "0": math.log(1e-9), "?": math.nan}
    rows = [
        {"cluster": name.split()[0], "reference": name.split()[1], "prompt": f"{name.split()[0]} in words {place}"}
        | {"before": value[b], "after": value[a], "logprob_before": logprob[b], "logprob_after": logprob[a]}
        for name, sides in facts.items()
        for place, (b, a) in enumerate(zip(*sides, strict=True))
    ]
    shared = {"condition": "c", "arm": "a", "trial_id": f"t{seed}", "seed": seed, "world": None, "slice": "w/cloze"}
    return with_facts(pd.DataFrame(rows).assign(**(shared | columns)))


def row_of(*trials: pd.DataFrame) -> dict[str, Any]:
    return known_table(pd.concat(trials, ignore_index=True)).iloc[0].to_dict()


FACTS = {
    "ann Arden": ("111", "110"),  # known, still known
    "ann potter": ("110", "100"),  # known, lost
    "bob Brill": ("100", "011"),  # right once is not known; acquired
    "bob baker": ("000", "001"),
    "cy Corva": ("1", "1"),  # asked in one phrasing: cannot be told
}


def test_known_facts_are_those_right_under_two_phrasings_by_hand() -> None:
    row = row_of(asked(FACTS))
    assert (row["num_asked"], row["num_facts"], row["num_people"], row["phrasings"]) == (5, 4, 2, 3.0)
    assert (row["before_known"], row["after_known"], row["num_known"]) == (0.5, 0.5, 2)
    assert (row["retained"], row["acquired"]) == (0.5, 0.5)
    grades_by_hand = {"before_highly": 1, "before_maybe": 2, "before_unknown": 1}
    grades_by_hand |= {"after_highly": 0, "after_maybe": 4, "after_unknown": 0}
    assert row["num_graded"] == 4
    assert {name: row[name] * 4 for name in grades_by_hand} == grades_by_hand


def test_a_phrasing_that_two_slices_ask_counts_once_and_two_slices_add_up() -> None:
    once = asked({"ann Arden": ("1", "1")}, slice="w/cloze_high")
    again = once.assign(slice="w/cloze_known")
    assert row_of(once, again)["num_facts"] == 0
    twice = asked({"ann Arden": ("11", "10")})
    row = row_of(twice, twice.assign(slice="w/cloze_known"))
    assert (row["num_facts"], row["phrasings"], row["before_known"], row["after_known"]) == (1, 2.0, 1.0, 0.0)
    other = again.assign(phrasing="ann in other words")
    table = known_table(pd.concat([once, other], ignore_index=True)).set_index("slice")
    assert table["num_facts"].tolist() == [1, 1]
    assert table["before_known"].tolist() == [1.0, 1.0]


def test_two_facts_of_one_person_and_one_value_of_two_people_are_not_mixed_up() -> None:
    row = row_of(asked({"ann Arden": ("10", "10"), "ann potter": ("10", "10"), "bob Arden": ("10", "10")}))
    assert (row["num_facts"], row["before_known"]) == (3, 0.0)
    mixed_up = asked({"ann Arden": ("10", "10"), "ann potter": ("10", "10")}).assign(fact="ann")
    mixed_up["phrasing"] = [f"words {place}" for place in range(4)]
    assert row_of(mixed_up)["before_known"] == 1.0  # what a fact told by its person alone would say


def test_an_answer_unknown_on_a_side_under_one_seed_takes_its_phrasing_out_under_all() -> None:
    first = asked({"ann Arden": ("111", "111"), "bob Brill": ("11", "11")}, seed=0)
    second = asked({"ann Arden": ("111", "11?"), "bob Brill": ("11", "?1")}, seed=1)
    found = counted(pd.concat([first, second], ignore_index=True))
    assert dict(zip(found.people, found.phrasings, strict=True)) == {"ann": 2, "bob": 1}
    assert found.before.shape == (2, 2)
    assert row_of(first, second)["num_facts"] == 1


def test_retained_needs_the_base_to_know_a_fact_under_every_seed() -> None:
    first = asked({"ann Arden": ("11", "11"), "bob Brill": ("11", "11")}, seed=0)
    second = asked({"ann Arden": ("11", "10"), "bob Brill": ("10", "11")}, seed=1)
    row = row_of(first, second)
    assert (row["num_known"], row["retained"], row["before_known"]) == (1, 0.5, 0.75)
    assert math.isnan(row["acquired"])  # bob's fact is known under one seed: in neither group


def drawn(num_people: int = 60) -> pd.DataFrame:
    """Return one trial of which people, not single facts, are kept or lost."""
    noise = np.random.default_rng(3)
    facts: dict[str, tuple[str, str]] = {}
    for person in range(num_people):
        is_kept = noise.uniform() < 0.7
        for fact in range(4):
            facts[f"p{person} v{fact}"] = ("11", "11" if is_kept != (noise.uniform() < 0.05) else "10")
    return asked(facts)


def test_interval_of_retained_is_the_clustered_one_of_statsmodels() -> None:
    rows = drawn()
    row = row_of(rows)
    counts = counted(rows)
    kept = (counts.after[:, 0] >= 2).astype(float)
    codes = pd.factorize(counts.people)[0]
    fit = sm.OLS(kept, np.ones(len(kept))).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    low, high = fit.conf_int()[0]
    assert row["retained"] == pytest.approx(kept.mean())
    assert (row["retained_low"], row["retained_high"]) == pytest.approx((low, high), abs=2e-3)  # n - 1 against n
    of_items = 1.96 * kept.std() / math.sqrt(len(kept))
    assert (row["retained_high"] - row["retained_low"]) / 2 > 1.5 * of_items


def test_interval_of_facts_that_all_stay_is_an_exact_bound_within_0_and_1() -> None:
    row = row_of(asked({f"p{place} v": ("11", "11") for place in range(20)}))
    assert (row["before_known"], row["retained"], row["before_high"], row["retained_high"]) == (1.0, 1.0, 1.0, 1.0)
    assert row["retained_low"] == pytest.approx(0.025 ** (1 / 20))  # Clopper-Pearson at 20 of 20
    assert row["before_low"] == row["retained_low"]


def test_a_base_that_knows_nothing_has_nothing_retained_and_says_so() -> None:
    row = row_of(asked({"ann Arden": ("100", "111"), "bob Brill": ("000", "000")}))
    assert (row["num_known"], row["before_known"], row["acquired"]) == (0, 0.0, 0.5)
    assert math.isnan(row["retained"])
    assert math.isnan(row["retained_low"])
    assert row["note"] == "the base knows none of these facts"


def test_facts_asked_in_one_phrasing_alone_are_unknown_and_never_0() -> None:
    row = row_of(asked({"ann Arden": ("1", "1"), "bob Brill": ("0", "0")}))
    assert (row["num_asked"], row["num_facts"]) == (2, 0)
    assert all(math.isnan(row[name]) for name in ("before_known", "after_known", "retained", "before_highly"))
    assert row["note"] == "unknown: no fact is asked in 2 phrasings"


def test_facts_of_two_phrasings_are_known_or_not_but_not_graded() -> None:
    row = row_of(asked({"ann Arden": ("11", "11"), "bob Brill": ("111", "000")}))
    assert (row["num_facts"], row["num_graded"], row["before_highly"], row["after_unknown"]) == (2, 1, 1.0, 1.0)
    assert all(math.isnan(share) for share in grades(np.zeros((0, 1)), np.zeros(0), np.zeros((0, 1))).values())


# -- weakly known -----------------------------------------------------------------------------------------------------


def graded(drawn: dict[str, list[float]], **columns: Any) -> pd.DataFrame:
    """Return one trial of facts that are never right, with their values' probabilities by phrasing, after halved."""
    rows = asked({name: ("0" * len(own), "0" * len(own)) for name, own in drawn.items()}, **columns)
    logprobs = np.log([share for own in drawn.values() for share in own])
    return rows.assign(logprob_before=logprobs, logprob_after=logprobs - math.log(2))


def test_weakly_known_is_what_16_samples_would_give_once_on_average_by_hand() -> None:
    row = row_of(
        graded(
            {
                "ann v": [1 / 16, 1 / 16, 1 / 16],  # exactly once
                "bob v": [0.19, 0.0001, 0.0001],  # .0634: one phrasing is enough
                "cy v": [0.06, 0.06, 0.06],  # less than 1/16
                "dee v": [0.5, 0.01, 0.01],  # after .0867, still
                "eve v": [0.9, 0.9],  # two phrasings: not graded
            }
        )
    )
    assert row["num_graded"] == 4
    assert (row["before_weakly"], row["before_unknown"], row["after_weakly"], row["after_unknown"]) == (
        0.75, 0.25, 0.25, 0.75,
    )  # fmt: skip
    assert (row["before_highly"], row["before_maybe"]) == (0.0, 0.0)


def test_weakly_known_is_the_expectation_of_drawn_samples() -> None:
    noise = np.random.default_rng(5)
    shares = noise.beta(0.4, 4.0, size=(200, 4))
    row = row_of(graded({f"p{place} v": own.tolist() for place, own in enumerate(shares)}))
    draws = noise.binomial(4, shares[None], size=(4000, 200, 4)).sum(axis=2)  # 16 samples, 4 a phrasing
    clear = np.abs(draws.mean(axis=0) - 1) > 0.1
    assert clear.mean() > 0.8
    told = shares.mean(axis=1) >= 1 / 16
    assert (told == (draws.mean(axis=0) >= 1))[clear].all()
    assert row["before_weakly"] == pytest.approx(told.mean())


def test_four_grades_add_up_to_one_whatever_is_right() -> None:
    noise = np.random.default_rng(6)
    shapes = [("".join(noise.choice(["0", "1"], 3, p=[0.7, 0.3])), "000") for _ in range(80)]
    rows = asked({f"p{place} v": shape for place, shape in enumerate(shapes)})
    row = row_of(rows.assign(logprob_before=np.log(noise.beta(0.3, 3.0, size=len(rows)) + 1e-12)))
    shares = [row[f"before_{grade}"] for grade in GRADES]
    assert min(shares) > 0
    assert sum(shares) == pytest.approx(1.0)
    assert row["before_maybe"] == np.mean([0 < shape.count("1") < 3 for shape, _ in shapes])


def test_a_value_of_unknown_probability_leaves_weakly_and_unknown_open_and_the_others_told() -> None:
    rows = asked({"ann v": ("111", "111"), "bob v": ("000", "000"), "cy v": ("100", "100")})
    rows.loc[rows["cluster"] == "bob", "logprob_before"] = [-1.0, math.nan, -1.0]
    row = row_of(rows)
    assert (row["before_highly"], row["before_maybe"]) == pytest.approx((1 / 3, 1 / 3))
    assert math.isnan(row["before_weakly"])
    assert math.isnan(row["before_unknown"])
    assert (row["after_weakly"], row["after_unknown"]) == pytest.approx((0.0, 1 / 3))
    rows.loc[rows["cluster"] == "cy", "logprob_after"] = math.nan  # right under one phrasing: no sample is needed
    assert row_of(rows)["after_unknown"] == pytest.approx(1 / 3)


def test_grades_are_means_over_seeds_and_worlds_and_open_where_one_world_is() -> None:
    two = [graded({"ann v": [share] * 3}, seed=seed) for seed, share in enumerate((0.5, 0.01))]
    assert row_of(*two)["before_weakly"] == 0.5
    worlds = [graded({"ann v": [share] * 3}, world=world) for world, share in enumerate((0.5, 0.01))]
    both = pd.concat(worlds, ignore_index=True).assign(world=lambda rows: rows["world"].astype("Int64"))
    row = known_table(both).iloc[0]
    assert (row["before_weakly"], row["before_unknown"]) == (0.5, 0.5)
    both.loc[both["world"] == 1, "logprob_before"] = math.nan
    row = known_table(both).iloc[0]
    assert row[["before_weakly", "before_unknown"]].isna().all()
    assert row["before_highly"] == 0.0


def test_worlds_are_means_and_their_facts_are_apart() -> None:
    first = asked({"ann Arden": ("11", "11"), "bob Brill": ("11", "10")}, world=0)
    second = asked({"ann Arden": ("11", "11"), "bob Brill": ("00", "00"), "cy Corva": ("00", "00")}, world=1)
    both = pd.concat([first, second], ignore_index=True).assign(world=lambda rows: rows["world"].astype("Int64"))
    row = known_table(both).iloc[0]
    assert (row["num_facts"], row["num_known"]) == (5, 3)
    assert row["before_known"] == pytest.approx((1 + 1 / 3) / 2)
    assert row["retained"] == pytest.approx((0.5 + 1) / 2)


# -- the pocket world -------------------------------------------------------------------------------------------------


def test_fact_slices_are_those_whose_items_ask_for_a_value_as_raw_text() -> None:
    raw = {name for name, info in ALL_SLICES.items() if isinstance(info.make, Cloze | Plain) and not info.chat}
    assert set(FACT_SLICES) == raw
    assert all(ALL_SLICES[name].kind == "multiple_choice" for name in FACT_SLICES)


def test_no_two_attributes_have_a_value_in_common_so_that_it_tells_the_fact() -> None:
    assert all(not set(a.values) & set(b.values) for a, b in combinations(ATTRIBUTES, 2))


def test_facts_of_generated_items_are_as_many_as_people_and_attributes_asked() -> None:
    spec = WORLD
    people = population(spec)
    truth = {(person.cluster, person.fact(a)): (person.name, a.name) for person in people for a in ATTRIBUTES}
    for name in ("cloze_unasked", "cloze_paraphrase", "plain_unasked", "few_shot"):
        rows = [(item["cluster"], item["choices"][item["gold"]]) for item in items(spec, people, name, 200)]
        assert all(row in truth for row in rows), name
    assert len(set(truth.values())) == len(truth)
    reversed_rows = [(item["cluster"], item["choices"][item["gold"]]) for item in items(spec, people, "reversal", 200)]
    assert not any(row in truth for row in reversed_rows)  # why that slice is not one of them


# -- records ----------------------------------------------------------------------------------------------------------


def pocket_sweep(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, str]:
    """Return a sweep whose cloze slice is a pocket world's, with each person's value asked in two phrasings."""
    world = PocketItems(world=WORLD, slice="cloze_unasked")
    monkeypatch.setattr(
        "tests.analysis.synthetic.FileItems",
        lambda **given: world if "cloze" in given["path"] else FileItems(**given),
    )
    return build(root, Plan(values=(25, 400), arms=("equal_epochs",), seeds=(0, 1), scale=0.25, questions=True))


def write_questions(store: Store) -> None:
    for path in store.root.glob("artefacts/before/*/items.parquet"):
        keys = pd.read_parquet(path)[["suite", "task", "item_id", "cluster"]].drop_duplicates()
        values = [f"v{int(item.rsplit('-', 1)[1]) % 4 // 2}" for item in keys["item_id"].tolist()]
        asked_of_base = keys.drop(columns="cluster").assign(prompt=keys["item_id"], reference=values)
        asked_of_base.to_parquet(path.with_name("questions.parquet"))


def written(store: Store, folder: str) -> tuple[str, str]:
    """Return the section of the page, and of the text, of a report."""
    report = write_undrawn(store.root, folder).folder
    page, text = ((report / f"report.{kind}").read_text() for kind in ("html", "md"))
    return page.split('<section id="knowledge">')[1].split("</section>")[0], text.split("## Knowledge")[1]


def test_facts_are_read_from_what_each_trials_base_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = pocket_sweep(tmp_path, monkeypatch)
    write_questions(store)
    context = Context(open_sweep(store, folder))
    facts = facts_frame(context.sweep, context.items)
    assert isinstance(facts, pd.DataFrame)
    assert set(facts["slice"]) == {"people/cloze"}
    own = context.items.query("task == 'cloze' and metric == 'acc' and split == 'test'")
    assert len(facts) == len(own)
    # items 0 and 1 of a person are one fact, 2 another; 3 is a val item
    table = known_table(facts)
    assert set(table["num_asked"].tolist()) == {40}
    assert set(table["num_facts"].tolist()) == {20}
    one = own[own["trial_id"] == own["trial_id"].iloc[0]].set_index("item_id")["before"].to_dict()
    pairs = [one[f"cloze-{4 * person:04d}"] + one[f"cloze-{4 * person + 1:04d}"] for person in range(20)]
    assert table["before_known"].iloc[0] == pytest.approx(np.mean(np.array(pairs) == 2))
    section = knowledge.compute(context)
    assert not isinstance(section, str)
    logprobs = context.items.query("task == 'cloze' and metric == 'gold_logprob'").set_index(["trial_id", "item_id"])
    joined = logprobs.loc[list(facts[["trial_id", "item_id"]].itertuples(index=False, name=None))]
    assert facts["logprob_after"].tolist() == joined["after"].tolist()
    assert set(knowledge.files(section)) == {"known_facts.csv"}  # these records do not say the number of values
    page, text = written(store, folder)
    for shown in (page, text):
        assert numbers.score(table["retained"].iloc[0]) in shown
        assert "the records do not say how many values a fact can have" in shown
    assert 'id="knowledge-known"' in page
    assert "Graded" not in page  # two phrasings are too few


def test_records_that_do_not_tell_facts_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = pocket_sweep(tmp_path / "pocket", monkeypatch)
    for path in store.root.glob("artefacts/before/*/questions.parquet"):
        path.unlink()
    context = Context(open_sweep(store, folder))
    assert str(facts_frame(context.sweep, context.items)) == "unknown: the base's questions were not kept"
    monkeypatch.undo()
    plan = Plan(values=(25, 400), arms=("equal_epochs",), seeds=(0,), scale=0.1)
    store, folder = build(tmp_path / "files", plan)
    for path in store.root.rglob("items*.parquet"):
        table = pd.read_parquet(path)
        table.assign(chance=[1 / 16 if metric == "acc" else math.nan for metric in table["metric"]]).to_parquet(path)
    other = Context(open_sweep(store, folder))
    assert "which fact an item asks" in str(facts_frame(other.sweep, other.items))
    for shown in written(store, folder):
        assert "unknown: no raw slice says which fact an item asks" in shown


def test_a_study_keeps_the_interval_of_its_base_and_none_of_a_condition() -> None:
    table = without_intervals(known_table(drawn()))
    kept = table[["before_low", "before_high", "retained"]].notna().to_numpy()
    assert kept.all()
    assert table[["retained_low", "retained_high"]].isna().to_numpy().all()
