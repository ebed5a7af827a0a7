"""Templates that never end, have no bound, leave the sandbox, or lose turns."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from harness.data import TEMPLATES, bounds, rendering_probe
from harness.data.chat import ChatFormat
from harness.data.conversations import UnusableRow, conversation
from harness.errors import DataError
from harness.evals.documents import documents
from harness.spec import EvalTask, FileItems
from tests.data.test_templates import CHATML_OWN, own
from tests.data.tiny import SYSTEM, TURNS, chat, rendered

ENDLESS = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
LIMIT_SECONDS = 20
"""Of wall time on a machine that others use as well, for a second of processor time."""


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SECONDS", 1)


def refusal(source: str) -> str:
    with pytest.raises(DataError) as caught:
        chat("tokenizer", own(source))
    return str(caught.value)


@pytest.mark.parametrize(
    ("addition", "fault"),
    [
        (ENDLESS, "ran out of time"),
        ("{{ (10 ** 10) ** (10 ** 9) }}", "ran out of"),
        ("{{ 'a' * 10 ** 11 }}", "ran out of memory"),
        ("{% for i in range(60000) %}{{ 'abcdefghijklmnopqrstuvwxyz' }}{% endfor %}", "writes 1560"),
        (
            "{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
            "ran out of",
        ),
    ],
)
def test_template_without_an_end_or_a_bound_is_refused_in_bounded_time(addition: str, fault: str) -> None:
    started = time.monotonic()
    sentence = refusal(addition + CHATML_OWN)
    assert time.monotonic() - started < LIMIT_SECONDS
    assert "must render a short conversation within 1 s" in sentence
    assert fault in sentence


def test_template_that_is_endless_only_where_a_system_turn_comes_first_is_refused() -> None:
    assert "ran out of time" in refusal("{% if messages[0].role == 'system' %}" + ENDLESS + "{% endif %}" + CHATML_OWN)


def test_template_with_a_range_over_the_sandbox_limit_is_refused_with_its_words() -> None:
    assert "Range too big" in refusal("{% for i in range(10 ** 12) %}{% endfor %}" + CHATML_OWN)


def test_template_that_calls_itself_for_ever_is_refused_with_its_words() -> None:
    assert "recursion" in refusal("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}" + CHATML_OWN)


@pytest.mark.parametrize(
    "addition",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__ }}",
        "{{ messages['__class__'] }}",
        "{{ messages | attr('__class__') }}",
        "{% set f = raise_exception.__globals__ %}",
    ],
)
def test_template_that_reaches_for_python_is_refused_though_the_sandbox_would_write_nothing(addition: str) -> None:
    assert "must not reach for Python's internals; it asks for '__" in refusal(addition + CHATML_OWN)


def test_template_that_reaches_for_python_by_a_computed_name_is_stopped_by_the_sandbox() -> None:
    sentence = refusal("{{ (messages | attr('__cl' ~ 'ass__')).mro() }}" + CHATML_OWN)
    assert "unsafe" in sentence or "undefined" in sentence


def test_verdict_is_the_same_from_another_thread_and_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    run = subprocess.run
    monkeypatch.setattr(bounds.subprocess, "run", lambda *args, **named: asked.append(args[0]) or run(*args, **named))
    source = "{# once #}" + CHATML_OWN
    workers = [threading.Thread(target=bounds.require_bounded, args=("tokenizer", source, {})) for _ in range(1)]
    for worker in workers:
        worker.start()
        worker.join()
    bounds.require_bounded("tokenizer", source, {})
    assert len(asked) == 1
    assert asked[0][0] == sys.executable


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_named_template_as_a_tokenizers_own_is_within_bounds(name: str) -> None:
    assert chat("tokenizer", own(TEMPLATES[name])).name == "tokenizer"


def test_probe_renders_what_transformers_renders() -> None:
    source = (
        "{% for m in messages %}\n{% if loop.index > 3 %}{% break %}{% endif %}{% generation %}{{ m | tojson }}"
        "{% endgeneration %}\n{% endfor %}{{ dict(a=1) }}{% set ns = namespace(x=1) %}{{ ns.x }}{{ bos_token }}"
    )
    (theirs,), _ = render_jinja_template([TURNS], chat_template=source, bos_token="<bos>")
    assert rendering_probe.environment().from_string(source).render(messages=TURNS, bos_token="<bos>") == theirs


# -- what waits for a row ---------------------------------------------------------------------------------------------


def test_template_that_is_endless_over_one_row_is_refused_with_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    form = chat("tokenizer", own("{% if 'Paris' in messages[-1].content %}" + ENDLESS + "{% endif %}" + CHATML_OWN))
    assert rendered(form, TURNS[:2]).text
    monkeypatch.setattr(bounds, "ROW_SECONDS", 1)
    started = time.monotonic()
    with bounds.watching(), pytest.raises(DataError, match="over row 'row' it ran out of time"):
        rendered(form, TURNS)
    assert time.monotonic() - started < LIMIT_SECONDS
    assert signal.getsignal(signal.SIGPROF) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_template_that_is_endless_over_a_probing_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "ROW_SECONDS", 1)
    with pytest.raises(DataError, match="over a conversation it ran out of time"):
        chat("tokenizer", own("{% if 'question' in messages[0].content %}" + ENDLESS + "{% endif %}" + CHATML_OWN))
    assert signal.getsignal(signal.SIGPROF) is signal.SIG_DFL


def test_template_that_is_endless_over_a_prompt_of_an_evaluation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    form = chat("tokenizer", own("{% if 'Paris' in messages[-1].content %}" + ENDLESS + "{% endif %}" + CHATML_OWN))
    monkeypatch.setattr(bounds, "ROW_SECONDS", 1)
    source = FileItems(sha256="0" * 64, path="nowhere")
    task = EvalTask(
        suite="s", name="n", kind="generate", source=source, measure="learned", primary=True, chat=True,
        num_items=None, max_new_tokens=4,
    )  # fmt: skip
    item = {"id": "0", "cluster": "", "context": "Is it Paris?", "answer": "Yes."}
    with pytest.raises(DataError, match="over a conversation it ran out of time"):
        documents([item], task, form, seed=0)


def test_template_that_runs_out_of_memory_over_one_row_is_refused_with_the_row() -> None:
    more = "{% if 'Paris' in messages[-1].content %}{{ 'x' * 9000000 * 9000000 * 9000000 }}{% endif %}"
    form = chat("tokenizer", own(more + CHATML_OWN))
    assert rendered(form, TURNS[:2]).text
    with pytest.raises(DataError, match="over row 'row' it ran out of memory"):
        rendered(form, TURNS)


@pytest.mark.parametrize("product", ["'x' * 5000000000", "2 ** 5000000000"])
def test_template_that_multiplies_without_measure_where_no_probe_gets_is_refused(product: str) -> None:
    said = refusal("{% if 'Paris' in messages[0].content %}{{ " + product + " }}{% endif %}" + CHATML_OWN)
    assert "it multiplies by 5000000000" in said


# -- turns that are lost ----------------------------------------------------------------------------------------------

SEVERAL = [TURNS * 3]
LOST = {
    "after the sixth": ("for m in messages", "for m in messages[:6]", "7, the user's, 0 times"),
    "all but the last": (
        "for m in messages",
        "for m in (messages[-2:] if messages | length > 4 else messages)",
        "1, the user's, 0 times",
    ),
    "the first twice": (
        "{% if add",
        "{% if messages | length > 4 %}{{ messages[0].content }}{% endif %}{% if add",
        "1, the user's, 2 times",
    ),
    "backwards": (
        "for m in messages",
        "for m in (messages[2:] + messages[:2] if messages | length > 4 else messages)",
        "3, the user's, out of order",
    ),
}


@pytest.mark.parametrize("how", sorted(LOST))
def test_template_that_loses_repeats_or_reorders_turns_is_refused_for_data_as_long(how: str) -> None:
    old, new, said = LOST[how]
    form = chat("tokenizer", own(CHATML_OWN.replace(old, new)))
    form.require([conversation(TURNS[:2], row_id="short", task="")])
    with pytest.raises(DataError, match=f"once and in order; of .* turns it writes number {said}"):
        form.require([conversation(turns, row_id="long", task="") for turns in SEVERAL])


def test_template_that_drops_a_system_turn_only_before_a_second_question_is_refused() -> None:
    source = CHATML_OWN.replace(
        "for m in messages", "for m in messages if m.role != 'system' or (messages | length) < 4"
    )
    form = chat("tokenizer", own(source))
    form.require([conversation([SYSTEM, *TURNS[:2]], row_id="short", task="")])
    with pytest.raises(DataError, match="number 1, the system's, 0 times"):
        form.require([conversation([SYSTEM, *TURNS], row_id="long", task="")])


def test_row_in_which_a_template_leaves_a_user_out_is_dropped_under_its_reason() -> None:
    source = CHATML_OWN.replace("+ m.content +", "+ (m.content | replace('France', 'Spain')) +")
    form = chat("tokenizer", own(source))
    assert rendered(form, TURNS[:2]).text.startswith("<|im_start|>")
    with pytest.raises(UnusableRow, match="template_alters"):
        rendered(form, TURNS)


@pytest.mark.parametrize("change", ["m.content | trim", "' ' + m.content", "m.content.split() | join(' ')"])
def test_template_that_changes_white_space_alone_keeps_its_rows(change: str) -> None:
    form: ChatFormat = chat("tokenizer", own(CHATML_OWN.replace("m.content", change)))
    messages = [{"role": "user", "content": "  What  is\n2?  "}, {"role": "assistant", "content": "Two."}]
    assert "Two." in rendered(form, messages).text
