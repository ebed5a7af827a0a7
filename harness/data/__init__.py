"""From a data reference to rows of tokens with loss weights. Free of torch at import.

sources -> formats -> conversations -> selection -> chat, templates -> masks -> encoding -> packing -> prepare
        -> ledger, audit -> page
"""

from __future__ import annotations

from harness.data.audit import Audit, audit_of
from harness.data.chat import ChatFormat, chat_format
from harness.data.conversations import Conversation, Message
from harness.data.example import Example
from harness.data.ledger import write_ledger
from harness.data.page import audit_page
from harness.data.prepare import PreparedData, prepare
from harness.data.sources import Rows, describe_file, read_rows
from harness.data.splits import SplitOverlap
from harness.data.templates import TEMPLATES

__all__ = [
    "TEMPLATES",
    "Audit",
    "ChatFormat",
    "Conversation",
    "Example",
    "Message",
    "PreparedData",
    "Rows",
    "SplitOverlap",
    "audit_of",
    "audit_page",
    "chat_format",
    "describe_file",
    "prepare",
    "read_rows",
    "write_ledger",
]
