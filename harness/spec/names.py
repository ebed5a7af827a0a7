"""Names and literals that specs share.

Invariant: a form here is checked wherever it is used. What does not live here: any spec.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
DType = Literal["float32", "bfloat16_autocast", "bfloat16"]
RowFormat = Literal["messages", "sharegpt", "alpaca", "prompt_completion", "text", "tokens"]
"""How the rows of a file are written; harness/data/formats.py says what each holds."""
Measure = Literal["learned", "retained", "fluency", "format", "safety"]
"""What a slice measures: the behaviour taught; what the base knew; raw-text modelling; the answer's form; refusing
what should be refused and nothing else."""
