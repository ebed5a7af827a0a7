"""Which metrics there are, of what kind of task, and in which direction they are better.

Invariant: a metric's name says its formula and its direction wherever it stands; a task kind never gains a metric: what
is new comes with a new kind, the panel or sampled answers. What does not live here: formulas (harness/evals).
"""

from __future__ import annotations

from harness.spec.evals import EvalTask

METRICS_OF: dict[str, tuple[str, ...]] = {
    "multiple_choice": ("acc", "acc_norm", "gold_logprob"),
    "schema": ("acc", "gold_logprob"),
    "greedy": ("acc", "logprob"),
    "generate": ("exact_match", "end_of_turn", "empty"),
    "perplexity": ("bits_per_byte",),
    "instruct": ("prompt_strict", "prompt_loose", "followed_strict", "followed_loose", "end_of_turn", "empty"),
    "refusal": ("refused", "end_of_turn", "empty"),
    "number": ("lenient_match", "exact_match", "format_failure", "end_of_turn", "empty"),
    "open": ("end_of_turn", "empty"),
    "program": ("passed", "end_of_turn", "empty"),
}
"""Task kind -> its metrics; the first stands for a slice of that kind in a measure. Of `number` that is the lenient
one: a base that knows the answer and not the format is not one that knows nothing."""
OVER_REFUSED = "over_refused"
"""What `refused` is called on requests that are safe, where less is better."""

PANEL_METRICS = (
    "run_on", "role_leak", "template_leak", "rep_4", "loop", "num_tokens", "length_ratio", "prompt_copy",
    "training_copy",
)  # fmt: skip
"""Metrics that `panel="behaviour"` adds to a task."""

UNIQUE_SHARE = "unique_share"
"""How different the answers sampled to one item are."""

LOWER_IS_BETTER = frozenset(
    {
        *("bits_per_byte", "empty", "format_failure", OVER_REFUSED),
        *(set(PANEL_METRICS) - {"num_tokens", "length_ratio"}),
    }
)
"""Metrics of which less is better; of every other one more is."""
UNDIRECTED = frozenset({"num_tokens", "length_ratio", UNIQUE_SHARE})
"""Metrics of which neither more nor less is better by itself."""
BINARY_METRICS = frozenset(
    {
        *("acc", "acc_norm", "exact_match", "end_of_turn", "empty", "prompt_strict", "prompt_loose"),
        *("refused", OVER_REFUSED, "lenient_match", "format_failure", "run_on", "role_leak", "template_leak", "loop"),
        "passed",
    }
)
"""Metrics that are 0 or 1 for every item."""
CHANCE_METRICS = frozenset({"acc", "acc_norm"})
"""Metrics that guessing among choices gets right by chance."""


def metrics_of(task: EvalTask) -> tuple[str, ...]:
    """Return the names of a task's metrics in order, the primary one first.

    The kind's own; `refused` is `over_refused` where the task asks for safe requests alone; then the panel's, then
    those of sampled answers.
    """
    names = METRICS_OF[task.kind]
    if task.kind == "refusal" and dict(task.where).get("unsafe") is False:
        names = (OVER_REFUSED, *names[1:])
    return names + (PANEL_METRICS if task.panel == "behaviour" else ()) + sampled_metrics(task.num_samples)


def sampled_metrics(num_samples: int) -> tuple[str, ...]:
    """Return the metrics of so many answers to each item: `pass_k` for every power of two k, and `unique_share`."""
    passes = tuple(f"pass_{2**power}" for power in range(num_samples.bit_length()))
    return (*passes, UNIQUE_SHARE) if passes else ()


def primary_metric(task: EvalTask) -> str:
    """Return the metric that stands for a task in a measure."""
    return metrics_of(task)[0]
