"""What the val and test items of an evaluation have in common: choices look at the one, tables at the other.

Invariant: an item is compared with the val items of its own suite alone, by what it asks, without layout or typing
errors; nothing is dropped and no item changes its split. What does not live here: what items and training rows have in
common (audit.py), the rule itself (hygiene.py), choosing the split (harness/evals/items.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from harness.data import hygiene

MOST_NAMED = 8
"""Slices that a warning names."""
Asked = Mapping[str, Mapping[str, str]]
"""Task key `suite/name` -> item id -> what the item asks."""


@dataclass(frozen=True)
class SplitOverlap:
    """How many test items of one slice stand in val items."""

    num_val: int
    num_test: int
    num_checked: int
    """Test items of at least four words."""
    num_overlapping: int
    """Of these, those of which one val item of the slice covers more than half of the words, by 8-grams."""
    num_repeated: int
    """Test items that ask just what a val item of the slice asks, but for case and white space; of any length."""
    num_across: int
    """Test items that overlap with, or repeat, a val item of another slice of the suite and none of their own."""

    @property
    def share(self) -> float | None:
        """Return the overlapping share of the test items that could be checked; None of none."""
        return self.num_overlapping / self.num_checked if self.num_checked else None

    @property
    def repeated_share(self) -> float | None:
        """Return the share of all test items that repeat a val item of the slice; None of none."""
        return self.num_repeated / self.num_test if self.num_test else None

    @property
    def across_share(self) -> float | None:
        """Return the share of all test items that overlap with a val item of another slice alone; None of none."""
        return self.num_across / self.num_test if self.num_test else None

    @property
    def is_large(self) -> bool:
        """Return whether more than 2 % overlap with val items of the slice, repeat one, or do so across slices."""
        return self.worst > hygiene.CONTAMINATED_SHARE

    @property
    def worst(self) -> float:
        """Return the largest of the three shares that are known; 0 of none."""
        return max(self.share or 0.0, self.repeated_share or 0.0, self.across_share or 0.0)


def split_overlaps(asked: Asked, val: Mapping[str, Collection[str]]) -> dict[str, SplitOverlap]:
    """Return task key -> how many of its test items stand in val items of its suite.

    The rule is that of `hygiene.overlap`, with val items for rows; less is better. Source: Lambert et al. (Tulu 3),
    arXiv:2411.15124, section 3.2.

    Args:
        asked: what every item asks.
        val: task key -> ids of its val items; a task that is not named here is left out.
    """
    suites: defaultdict[str, list[str]] = defaultdict(list)
    for key in (key for key in asked if key in val):
        suites[key.partition("/")[0]].append(key)
    found = {key: one for suite, keys in suites.items() for key, one in _of_suite(suite, keys, asked, val)}
    return {key: found[key] for key in asked if key in found}


def warning(overlaps: Mapping[str, SplitOverlap]) -> str | None:
    """Return one sentence that names the slices of which more than 2 % overlap, the worst first; None without any."""
    large = sorted((one for one in overlaps.items() if one[1].is_large), key=lambda one: -one[1].worst)
    if not large:
        return None
    named = ", ".join(f"{key} {one.worst:.1%}" for key, one in large[:MOST_NAMED])
    more = f" and {len(large) - MOST_NAMED} more" if len(large) > MOST_NAMED else ""
    return (
        f"test items stand in val items, on which choices are made: {named}{more} (above "
        f"{hygiene.CONTAMINATED_SHARE:.0%}); give items that belong together one cluster, or choose on other slices"
    )


def _of_suite(
    suite: str, keys: Iterable[str], asked: Asked, val: Mapping[str, Collection[str]]
) -> Iterable[tuple[str, SplitOverlap]]:
    val_of = {key: set(val[key]) for key in keys}
    # Slices of a suite mostly ask the same items in several ways: every text is looked at once.
    seen, exact = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for key, ids in val_of.items():
        for text in (text for item, text in asked[key].items() if item in ids):
            seen[text].add(key)
            exact[hygiene.plain(text)].add(key)
    tested = {text: text for key, ids in val_of.items() for item, text in asked[key].items() if item not in ids}
    places = list(seen)
    standing = {
        text: set[str]().union(*(seen[places[row]] for row in rows))
        for text, rows in hygiene.overlap(suite, tested, places).rows_of.items()
    }
    for key, ids in val_of.items():
        tests = [text for item, text in asked[key].items() if item not in ids]
        repeats = [exact.get(hygiene.plain(text), set()) if text.strip() else set[str]() for text in tests]
        covers = [standing.get(text, set()) for text in tests]
        yield (
            key,
            SplitOverlap(
                num_val=len(ids),
                num_test=len(tests),
                num_checked=sum(len(hygiene.words(text)) >= hygiene.FEWEST_WORDS for text in tests),
                num_overlapping=sum(key in owners for owners in covers),
                num_repeated=sum(key in owners for owners in repeats),
                num_across=sum(bool(a | b) and key not in a | b for a, b in zip(covers, repeats, strict=True)),
            ),
        )
