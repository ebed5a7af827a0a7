from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from harness.data import audit_of, describe_file, read_rows
from harness.data.conversations import by_reason
from harness.errors import DataError
from harness.records.store import Store, write_manifest
from harness.spec import HubData, PocketData
from tests.data.tiny import SYSTEM, TURNS, chat, prepared, write_rows
from tests.pocket.tiny import TINY_WORLD

FORMS: dict[str, dict[str, Any]] = {
    "messages": {"messages": TURNS[:2]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "What is 2+2?"}, {"from": "gpt", "value": "The answer is 4."}]
    },
    "alpaca": {"instruction": "What is 2+2?", "input": "", "output": "The answer is 4."},
    "prompt_completion": {"prompt": "What is 2+2?", "completion": "The answer is 4."},
}
every_form = pytest.mark.parametrize("form", FORMS)


def read(path: Path) -> Any:
    return read_rows(describe_file(path))


# -- formats ----------------------------------------------------------------------------------------------------------


@every_form
def test_every_format_gives_the_same_conversation(form: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"id": 7, "task": "sums"} | FORMS[form]])
    source = describe_file(path)
    assert source.format == form
    row = read_rows(source).conversations[0]
    assert (row.row_id, row.task, list(row.messages)) == ("7", "sums", TURNS[:2])


@every_form
def test_parquet_gives_the_same_rows_as_json_lines(form: str, tmp_path: Path) -> None:
    rows = [FORMS[form] | {"id": str(i)} for i in range(3)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    lines = read(write_rows(tmp_path / "rows.jsonl", rows))
    assert list(read(tmp_path / "rows.parquet").conversations) == list(lines.conversations)


def test_parquet_calls_have_their_own_arguments_alone_as_json_lines_have(tmp_path: Path) -> None:
    def talk(*calls: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        made = [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in calls]
        return {"messages": [TURNS[0], {"role": "assistant", "content": "I call.", "tool_calls": made}]}

    rows = [talk(("add", {"a": 1, "b": {"c": 2}}), ("say", {"text": "hi"})), talk(("stop", {})), {"messages": TURNS}]
    rows[0]["tools"] = None
    rows[1]["tools"] = [{"name": "stop", "parameters": {"properties": {"now": {"type": "boolean"}}}}]
    rows[2]["tools"] = [{"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    lines = read(write_rows(tmp_path / "rows.jsonl", rows))
    assert [repr(row) for row in read(tmp_path / "rows.parquet").conversations] == [
        repr(row) for row in lines.conversations
    ]


def test_null_argument_of_json_lines_stays(tmp_path: Path) -> None:
    call = {"function": {"name": "add", "arguments": {"a": None}}}
    row = {"messages": [TURNS[0], {"role": "assistant", "content": "", "tool_calls": [call]}]}
    (read_row,) = read(write_rows(tmp_path / "rows.jsonl", [row])).conversations
    assert read_row.messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": None}


def not_utf8() -> pa.Array:
    """Return the texts "ok" and two bytes that are no UTF-8, as a writer that checks nothing leaves them."""
    ends = b"".join(end.to_bytes(4, "little") for end in (0, 2, 4))
    return pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(ends), pa.py_buffer(b"ok\xff\xfe")])


@pytest.mark.parametrize("column", [not_utf8(), pa.array([0, 2**62]).cast(pa.timestamp("us"))], ids=["utf8", "date"])
def test_parquet_column_that_no_format_reads_may_hold_anything(column: pa.Array, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": ["one", "two"], "note": column}), tmp_path / "rows.parquet")
    assert [row.text for row in read(tmp_path / "rows.parquet").conversations] == ["one", "two"]


def test_parquet_value_that_cannot_be_read_drops_its_row_alone(tmp_path: Path) -> None:
    tools = pa.chunked_array([not_utf8().slice(1), pa.array(["", "[]"])])
    parquet.write_table(pa.table({"messages": [TURNS[:2]] * 3, "tools": tools}), tmp_path / "rows.parquet")
    rows = read(tmp_path / "rows.parquet")
    assert [row.row_id for row in rows.conversations] == ["row-1", "row-2"]
    assert by_reason(rows.dropped) == {"malformed": 1}


def test_text_rows_are_documents_without_messages(tmp_path: Path) -> None:
    rows = read(write_rows(tmp_path / "rows.jsonl", [{"text": "Once upon a time."}, {"text": "  "}]))
    assert [row.text for row in rows.conversations] == ["Once upon a time."]
    assert by_reason(rows.dropped) == {"empty_text": 1}


def test_alpaca_input_follows_the_instruction_and_system_leads(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": "2 and 2", "output": "4", "system": "Be brief."}
    messages = read(write_rows(tmp_path / "rows.jsonl", [row])).conversations[0].messages
    assert [m["content"] for m in messages] == ["Be brief.", "Add.\n\n2 and 2", "4"]


@every_form
def test_system_of_a_row_is_the_first_turn_in_every_format(form: str, tmp_path: Path) -> None:
    row = FORMS[form] | {"system": SYSTEM["content"]}
    made = read(write_rows(tmp_path / "rows.jsonl", [row])).conversations[0]
    assert list(made.messages) == [SYSTEM, *TURNS[:2]]
    assert made.num_prompt_messages == (2 if form == "prompt_completion" else None)


def test_system_of_a_row_that_begins_with_it_is_said_once(tmp_path: Path) -> None:
    row = {"messages": [SYSTEM, *TURNS], "system": SYSTEM["content"]}
    assert list(read(write_rows(tmp_path / "rows.jsonl", [row])).conversations[0].messages) == [SYSTEM, *TURNS]


@pytest.mark.parametrize("form", ["messages", "sharegpt", "alpaca", "prompt_completion"])
def test_tools_may_be_json_in_a_text(form: str, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    rows = [FORMS[form] | {"tools": written} for written in (tools, json.dumps(tools), "", "[]")]
    found = read(write_rows(tmp_path / "rows.jsonl", rows)).conversations
    assert [row.tools for row in found] == [tools, tools, None, None]


def test_calls_of_sharegpt_and_what_tools_return_are_kept(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    turns = [
        {"from": "human", "value": "Add."},
        {"from": "gpt", "value": None, "tool_calls": [call]},
        {"from": "tool", "value": "4", "tool_call_id": "c1", "name": "add"},
        {"from": "gpt", "value": "It is 4."},
    ]
    row = read(write_rows(tmp_path / "rows.jsonl", [{"conversations": turns}])).conversations[0]
    assert row.messages[1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert row.messages[2] == {"role": "tool", "content": "4", "tool_call_id": "c1", "name": "add"}


def test_history_of_alpaca_comes_before_the_instruction(tmp_path: Path) -> None:
    plain = FORMS["alpaca"]
    history = [["Hello?", "Hello!"], ["Say hi.", "Hi."]]
    rows = [plain | {"history": given} for given in (history, [], ["Hello?"], [["Hello?"]])]
    found = read(write_rows(tmp_path / "rows.jsonl", rows))
    first, second = found.conversations
    assert [m["content"] for m in first.messages] == [*history[0], *history[1], *(m["content"] for m in TURNS[:2])]
    assert [m["role"] for m in first.messages] == ["user", "assistant"] * 3
    assert list(second.messages) == TURNS[:2]
    assert by_reason(found.dropped) == {"malformed": 2}


def test_fields_of_messages_that_nothing_reads_are_counted(tmp_path: Path) -> None:
    thinking = [TURNS[0] | {"name": "Ann"}, TURNS[1] | {"reasoning_content": "2+2 is 4.", "weight": 1, "refusal": None}]
    rows = [{"messages": thinking}, {"messages": [*TURNS[:2], *thinking]}, {"messages": TURNS}]
    data = prepared(write_rows(tmp_path / "rows.jsonl", rows))
    assert data.summary.ignored_fields == {"name": 2, "reasoning_content": 2}
    (said,) = [one for one in audit_of(data, chat(), 4, {}).warnings if "reasoning_content: 2" in one]
    assert said.startswith("messages hold fields that nothing reads (name: 2, reasoning_content: 2 rows)")


def test_prompt_completion_takes_message_lists(tmp_path: Path) -> None:
    row = {"prompt": [SYSTEM, TURNS[0]], "completion": [TURNS[1]]}
    messages = read(write_rows(tmp_path / "rows.jsonl", [row])).conversations[0].messages
    assert list(messages) == [SYSTEM, *TURNS[:2]]


def test_tool_calls_and_tools_are_wrapped_alike(tmp_path: Path) -> None:
    function = {"name": "add", "parameters": {"type": "object"}}
    bare = {"name": "add", "arguments": '{"x": 2}'}
    wrapped = {"type": "function", "function": {"name": "add", "arguments": {"x": 2}}}
    rows = [
        {"messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [call]}], "tools": [tool]}
        for call, tool in ((bare, function), (wrapped, {"type": "function", "function": function}))
    ]
    first, second = read(write_rows(tmp_path / "rows.jsonl", rows)).conversations
    assert first.messages == second.messages
    assert first.tools == second.tools == [{"type": "function", "function": function}]
    assert first.messages[1]["tool_calls"] == [wrapped]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([TURNS[0]], "no_assistant_turn"),
        ([TURNS[1]], "assistant_first"),
        ([SYSTEM, TURNS[1]], "assistant_first"),
        ([TURNS[0], {"role": "assistant", "content": " \n"}], "empty_assistant_turn"),
        ([TURNS[0], {"role": "narrator", "content": "x"}, TURNS[1]], "unknown_role"),
        ([{"role": "user", "content": "\ud800"}, TURNS[1]], "not_unicode"),
        ([{"role": "user", "content": 4}, TURNS[1]], "malformed"),
        ([{"content": "x"}, TURNS[1]], "malformed"),
        ("What is 2+2?", "malformed"),
        ([], "malformed"),
    ],
)
def test_unusable_row_is_left_out_and_counted(messages: Any, reason: str, tmp_path: Path) -> None:
    rows = read(write_rows(tmp_path / "rows.jsonl", [{"messages": TURNS}, {"messages": messages}]))
    assert (rows.num_read, len(rows.conversations), by_reason(rows.dropped)) == (2, 1, {reason: 1})


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_file_without_any_assistant_turn_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": [TURNS[0]]}] * 3)
    with pytest.raises(DataError, match=r"no row that can be trained on among the 3 read \(no_assistant_turn: 3\)"):
        describe_file(path)


def test_missing_file_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.source\.path is '.*nowhere\.jsonl'.*No such file"):
        describe_file(tmp_path / "nowhere.jsonl")


def test_a_bad_row_among_the_first_is_dropped_and_not_the_file(tmp_path: Path) -> None:
    rows = read(write_rows(tmp_path / "rows.jsonl", [{"messages": None}, {"messages": TURNS}, {"messages": TURNS}]))
    assert (len(rows.conversations), by_reason(rows.dropped)) == (2, {"malformed": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no rows"),
        (b'{"question": "x", "answer": "y"}\n', r"fields \['answer', 'question'\], but most rows must have"),
        (b'{"messages": []}\n{"prompt": "x"}\n', "but most rows must have those of one known format"),
        (b"question,answer\n1,2\n", "1 is not JSON .* write one object a line"),
        (b'[{"prompt": "x"}]\n', "1 is .* but must be a JSON object"),
        (b'{"text": "\xff"}\n', "1 is not JSON"),
        (b"PAR1 and no more", "damaged Parquet file"),
    ],
)
def test_unknown_file_is_refused_in_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.dat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        describe_file(path)
    assert "\n" not in str(raised.value)


def test_file_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [FORMS["messages"]])
    source = describe_file(path)
    write_rows(path, [FORMS["messages"]] * 2)
    with pytest.raises(DataError, match="changed since the plan"):
        read_rows(source)


def test_line_separator_inside_a_string_does_not_end_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "one\u2028two"}, ensure_ascii=False) + "\n\n", encoding="utf-8-sig")
    assert read(path).conversations[0].text == "one\u2028two"


# -- worlds and hubs --------------------------------------------------------------------------------------------------


def test_pocket_rows_are_the_worlds_conversations() -> None:
    rows = read_rows(PocketData(world=TINY_WORLD, families=("fact", "sum"), num_rows=12))
    assert len(rows.conversations) == 12
    assert {row.task for row in rows.conversations} == {"fact", "sum"}
    assert rows.dropped == ()


def hub(**changes: Any) -> HubData:
    plain = {"repo_id": "someone/chats", "revision": "ab" * 20, "split": "train", "format": "messages"}
    return HubData(**(plain | changes))


def test_hub_dataset_that_is_not_on_the_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="someone/chats at revision abababababab is not on this machine"):
        read_rows(hub(), Store(tmp_path))


def test_hub_dataset_is_read_from_the_fetched_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.artefact("fetched", hub().artefact_key)
    folder.mkdir(parents=True)
    write_rows(folder / "train.jsonl", [{"id": str(i), "messages": TURNS} for i in range(3)])
    write_manifest(folder)
    rows = read_rows(hub(), store)
    assert [row.row_id for row in rows.conversations] == ["0", "1", "2"]
    assert list(rows.conversations[0].messages) == TURNS
    with pytest.raises(DataError, match=r"data\.source\.split is 'test'"):
        read_rows(hub(split="test"), store)


def fetched(store: Store, source: HubData) -> Path:
    """Return the empty folder of a fetched dataset."""
    folder = store.artefact("fetched", source.artefact_key)
    folder.mkdir(parents=True)
    return folder


CALLED: list[dict[str, Any]] = [
    {"epsilon": 8.854e-12},
    {"epsilon": "unknown"},
    {"epsilon": 1.256e-06, "unit": None},
    {"other": 3},
]
"""Arguments of one function: types and names differ, as real calls' do."""
CALLING = [
    {
        "id": str(number),
        "messages": [
            {"role": "user", "content": "Call."},
            {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": arguments}]},
        ],
    }
    for number, arguments in enumerate(CALLED)
]


def arguments(source: HubData, store: Store) -> list[Any]:
    rows = read_rows(source, store).conversations
    return [row.messages[1].get("tool_calls", [])[0]["function"]["arguments"] for row in rows]


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "data/train-00000-of-00001.jsonl"])
def test_hub_dataset_of_json_lines_keeps_numbers_and_adds_no_names(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = fetched(store, hub()) / name
    path.parent.mkdir(exist_ok=True)
    write_rows(path, CALLING)
    write_manifest(store.artefact("fetched", hub().artefact_key))
    assert arguments(hub(), store) == CALLED


def test_hub_dataset_reads_the_files_of_its_config_and_split_in_their_order(tmp_path: Path) -> None:
    store, source = Store(tmp_path), hub(config="calls", split="dev")
    folder = fetched(store, source)
    write_rows(folder / "b.jsonl", CALLING[2:])
    write_rows(folder / "a.jsonl", CALLING[:2])
    write_rows(folder / "other.jsonl", [{"messages": TURNS}])
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: talk\n  data_files: other.jsonl\n- config_name: calls\n  data_files:\n"
        "  - split: dev\n    path: [a.jsonl, b.jsonl]\n  - split: train\n    path: other.jsonl\n---\n"
    )
    write_manifest(folder)
    assert arguments(source, store) == CALLED
    assert len(read_rows(hub(config="talk"), store).conversations) == 1


def test_hub_dataset_of_parquet_is_what_the_file_holds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = fetched(store, hub())
    parquet.write_table(pa.Table.from_pylist([{"id": 8, "messages": TURNS}] * 2), folder / "train.parquet")
    write_manifest(folder)
    rows = read_rows(hub(), store)
    assert [list(row.messages) for row in rows.conversations] == [TURNS, TURNS]


@pytest.mark.parametrize("kind", ["array", "document", "csv", "gzip"])
def test_hub_dataset_of_another_kind_of_file_is_left_to_the_library(kind: str, tmp_path: Path) -> None:
    store, source = Store(tmp_path), hub(format="alpaca")
    folder, rows = fetched(store, source), [FORMS["alpaca"]] * 2
    if kind == "csv":
        lines = [",".join(f'"{value}"' for value in row.values()) for row in rows]
        (folder / "train.csv").write_text("\n".join([",".join(rows[0]), *lines]))
    elif kind == "gzip":
        (folder / "train.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    else:
        (folder / "train.json").write_text(json.dumps(rows, indent=1 if kind == "document" else None))
    write_manifest(folder)
    found = read_rows(source, store).conversations
    assert [list(row.messages) for row in found] == [TURNS[:2]] * 2


def test_hub_dataset_with_a_damaged_line_is_refused_with_its_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = fetched(store, hub())
    (folder / "train.jsonl").write_text(json.dumps({"messages": TURNS}) + "\n{\n")
    write_manifest(folder)
    with pytest.raises(DataError, match=r"train\.jsonl:2 is not JSON"):
        read_rows(hub(), store)


def test_hub_dataset_is_read_from_the_clients_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "datasets--someone--chats" / "snapshots" / hub().revision
    folder.mkdir(parents=True)
    write_rows(folder / "train.jsonl", [{"messages": TURNS}])
    assert len(read_rows(hub()).conversations) == 1


def test_import_of_the_data_path_is_free_of_torch() -> None:
    code = (
        "import sys, harness.data; from harness.data import sources; "
        "print([name for name in ('torch', 'transformers', 'datasets', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
