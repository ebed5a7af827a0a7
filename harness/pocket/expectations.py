"""What can be said of a world and its model before anything is trained: which slices cannot show much, and why.

Invariant: torch-free, and nothing here refuses; what cannot work at all is refused by world.py and pretrain.py. The
numbers come from three worlds of the size that ships, measured on 2026-11-21. What does not live here: scores.
"""

from __future__ import annotations

import math

from harness.pocket.corpus import SHARES
from harness.pocket.people import ATTRIBUTES
from harness.spec import PocketModelSpec, WorldSpec

FLOOR_EXPOSURES = 4
"""Below this many exposures a fact is answered about as often as by chance."""
CEILING_EXPOSURES = 40
"""From this many on nearly every fact is known: .99 on two worlds at 45, .63 and .73 at 10."""
MIN_CLUSTERS = 125
"""Of a slice, val and test together: 100 are left where val takes a fifth."""
OWN_FIRST_TOKENS = 768
"""From this vocabulary on the values of every attribute begin with tokens of their own, on worlds 0 and 1; at 512 the
twelve birthplaces have 7."""
OTHER_SHARE = sum(SHARES.values())
TOKENS_PER_EXPOSURE = 32.5
"""What tells the facts of one person once."""
TOKENS_AS_SHIPPED = 3.02e6
MANY_TOKENS = 2 * TOKENS_AS_SHIPPED
BITS_PER_PARAMETER = 1.0
"""What about 100 exposures of a fact store; 1000 store twice as much (Allen-Zhu and Li, arXiv:2404.05405)."""


def flags(world: WorldSpec, model: PocketModelSpec | None = None) -> list[str]:
    """Return one sentence for each slice that will be at its floor or ceiling, or is too small; none for a sound world.

    Args:
        world: the world.
        model: its base, for what it can store; None says nothing about that.
    """
    found = [*_floors(world), *_ceilings(world), *_not_surfaced(world), *_clusters(world), *_size(world)]
    return [*found, *(_capacity(world, model) + _vocabulary(model) if model else ())]


def num_parameters(model: PocketModelSpec) -> int:
    """Return the parameters of the Llama that a spec describes, embeddings tied."""
    width = model.hidden_size
    layer = 4 * width**2 + 3 * width * 3 * width + 2 * width
    return model.vocab_size * width + model.num_layers * layer + width


def bits(world: WorldSpec) -> float:
    """Return the bits that the facts of all known people hold."""
    return 3 * world.people_per_tier * sum(math.log2(len(attribute.values)) for attribute in ATTRIBUTES)


def num_tokens(world: WorldSpec) -> float:
    """Return about how many tokens the corpus of a world has."""
    told = world.people_per_tier * sum(_exposures(world).values())
    return TOKENS_PER_EXPOSURE * told / (1 - OTHER_SHARE - world.plain_question_share)


def _exposures(world: WorldSpec) -> dict[str, int]:
    return {"high": world.exposures_high, "mid": world.exposures_mid, "low": world.exposures_low}


def _floors(world: WorldSpec) -> list[str]:
    return [
        f"world.exposures_{tier} is {count}: cloze_{tier} will be at its floor of {1 / len(ATTRIBUTES[0].values):.3f}, "
        f"chance, and can show no forgetting; from {FLOOR_EXPOSURES} exposures on it can"
        for tier, count in _exposures(world).items()
        if count < FLOOR_EXPOSURES
    ]


def _ceilings(world: WorldSpec) -> list[str]:
    counts = _exposures(world)
    return [
        f"world.exposures_{tier} is {counts[tier]}: cloze_{tier} will be at its ceiling, as cloze_high is, and shows "
        f"no graded knowledge; below {CEILING_EXPOSURES} exposures it does"
        for tier in ("mid", "low")
        if counts[tier] >= CEILING_EXPOSURES
    ]


def _not_surfaced(world: WorldSpec) -> list[str]:
    found = [
        f"world.left_out_skills names {name!r}: raw_{name} and every other slice that asks it in raw form will be at "
        "their floor, because no text shows it"
        for name in world.left_out_skills
    ]
    unasked = "questions about people never asked about are expected near their floor of 0 (arXiv:2309.14316): "
    if not world.augmented:
        found.append(f"world.augmented is False: {unasked}what stands in one wording alone is not extracted")
    if not world.plain_question_share:
        found.append(f"world.plain_question_share is 0: {unasked}what no text asks for is not extracted")
    return found


def _clusters(world: WorldSpec) -> list[str]:
    found = []
    if world.people_per_tier < MIN_CLUSTERS:
        found.append(
            f"world.people_per_tier is {world.people_per_tier}: slices about a tier have as many clusters, val and "
            f"test together, fewer than the {MIN_CLUSTERS} of which a test split keeps 100"
        )
    if (half := world.num_unknown_people // 2) < MIN_CLUSTERS:
        found.append(
            f"world.num_unknown_people is {world.num_unknown_people}: slices about those never told and those who may "
            f"be taught have {half} clusters each, val and test together, fewer than the {MIN_CLUSTERS} of which a "
            "test split keeps 100"
        )
    return found


def _size(world: WorldSpec) -> list[str]:
    tokens = num_tokens(world)
    if tokens <= MANY_TOKENS:
        return []
    return [
        f"world.exposures_high, _mid and _low make a corpus of about {tokens / 1e6:.0f} million tokens, "
        f"{tokens / TOKENS_AS_SHIPPED:.0f} times as many as the world that ships has, and pretraining as much longer"
    ]


def _capacity(world: WorldSpec, model: PocketModelSpec) -> list[str]:
    load, capacity = bits(world), BITS_PER_PARAMETER * num_parameters(model)
    if load <= capacity:
        return []
    return [
        f"world.people_per_tier is {world.people_per_tier}: {load:,.0f} bits of facts are more than the "
        f"{capacity:,.0f} that a base of {num_parameters(model):,} parameters stores at about 100 exposures, so the "
        "low tiers will be at their floor"
    ]


def _vocabulary(model: PocketModelSpec) -> list[str]:
    if model.vocab_size >= OWN_FIRST_TOKENS:
        return []
    return [
        f"base.model.vocab_size is {model.vocab_size}: values of one attribute will share their first tokens, so that "
        f"a cloze is not decided at its first; from {OWN_FIRST_TOKENS} on each has its own"
    ]
