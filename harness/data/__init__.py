"""From a data reference to rows of tokens with loss weights. Free of torch at import.

sources -> formats -> conversations -> selection -> chat, templates -> masks -> encoding -> packing -> prepare
"""

from __future__ import annotations

from harness.data.chat import ChatFormat, chat_format
from harness.data.conversations import Conversation, Message
from harness.data.example import Example
from harness.data.prepare import PreparedData, prepare
from harness.data.sources import Rows, describe_file, read_rows
from harness.data.templates import TEMPLATES

__all__ = [
    "TEMPLATES",
    "ChatFormat",
    "Conversation",
    "Example",
    "Message",
    "PreparedData",
    "Rows",
    "chat_format",
    "describe_file",
    "prepare",
    "read_rows",
]
