"""Redaction: secrets go, hashes and counts stay."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import urllib.parse

import pytest

from harness.redact import REDACTED, environment_secrets, is_secret, redact


@pytest.mark.parametrize(
    "text",
    [
        "HF_TOKEN=abc123def456 make sweep",
        "--token abc123def456",
        "--api-key=abc123def456",
        "password: abc123def456",
        "client_secret='abc123def456'",
        "postgresql://user:abc123def456@host/db",
        "hf_abc123def456ghijkl",
        "key sk-abc123def456ghijkl",
        "developer_token=abc123def456",
    ],
)
def test_redact_secret_goes(text: str) -> None:
    assert "abc123def456" not in redact(text)
    assert REDACTED in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "num_tokens=400",
        "loss tokens per step: 136",
        "ab" * 32,
        "5f" * 20,
        "tokenizer=own",
        "python -m harness trial " + "0f" * 32,
        "https://arxiv.org/abs/2305.11206",
        "the token mean over the batch",
        '{"edl_bits_per_token": 0.53, "loss": 2.0}',
        "loss per token: 2.31",
    ],
)
def test_redact_innocent_text_stays(text: str) -> None:
    assert redact(text) == text


def test_redact_walks_structures_and_keeps_types() -> None:
    value = {"a": [1, 2.5, None, True, "s3cr3t-value"], "s3cr3t-value": {"b": "x s3cr3t-value y"}}
    assert redact(value, ["s3cr3t-value"]) == {"a": [1, 2.5, None, True, REDACTED], REDACTED: {"b": f"x {REDACTED} y"}}


def test_redact_leaves_json_that_can_be_read() -> None:
    assert json.loads(redact('{"api_key": "abc123def456", "b": 1}')) == {"api_key": REDACTED, "b": 1}


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("DEVELOPER_TOKEN", "x", True),
        ("WANDB_API_KEY", "x", True),
        ("PGPASSWORD", "x", True),
        ("DATABASE", "postgresql://me:abc123@db/lab", True),
        ("LOGIN", "hf_abc123def456ghijkl", True),
        ("KEYBOARD", "qwertz", False),
        ("PATH", "/usr/bin:/bin", False),
        ("HARNESS_RUN_CODE", "1", False),
    ],
)
def test_variable_is_a_secret_by_its_name_or_its_value(name: str, value: str, secret: bool) -> None:
    assert is_secret(name, value) is secret


def test_environment_secrets_are_those_named_so_longest_first() -> None:
    environment = {"HF_TOKEN": "12345678", "PGPASSWORD": "1234567890", "KEYBOARD": "qwertzuiop", "X_SECRET": "short"}
    environment |= {
        "AWS_ACCESS_KEY_ID": "abcdefgh",
        "PWD": "/a/long/folder",
        "MYSQL_PWD": "mysqlmysql",
        "HOME_KEY": "/",
    }
    environment |= {"DATABASE_URL": "mysql://me:url-password@host/db", "MONKEY": "not-a-secret"}
    found = environment_secrets(environment)
    assert {"1234567890", "12345678", "abcdefgh", "mysqlmysql", "url-password"} <= set(found)
    assert not {"qwertzuiop", "short", "/a/long/folder", "not-a-secret", "mysql://me:url-password@host/db"} & set(found)
    assert list(map(len, found)) == sorted(map(len, found), reverse=True)


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
@pytest.mark.parametrize("after", ["", "@", "@h", "@host"])
def test_redact_finds_a_secret_inside_base64(before: str, after: str) -> None:
    secrets = environment_secrets({"PGPASSWORD": "p&ss/w%rd \xe9"})
    text = base64.b64encode(f"{before}p&ss/w%rd \xe9{after}".encode()).decode()
    assert REDACTED in redact(f"Authorization: Basic {text}", secrets)
    assert REDACTED in redact(urllib.parse.quote("p&ss/w%rd \xe9"), secrets)


def test_redact_output_is_of_every_stream_and_ends() -> None:
    code = (
        "import sys; from harness import redact\n"
        "with redact.output():\n"
        "    print('a hf_0123456789abcdefghij b'); sys.stderr.writelines(['password=hunter2 ', 'x'])\n"
        "    assert sys.stdout.fileno() == 1 and not sys.stdout.isatty()\n"
        "print('hf_0123456789abcdefghij')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "a [redacted] b\nhf_0123456789abcdefghij\n"
    assert done.stderr == "password=[redacted] x"
