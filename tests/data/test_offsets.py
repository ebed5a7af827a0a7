"""Where tokens stand: what a tokenizer answers about one character is what the list of all offsets says."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers

from harness.data import offsets
from harness.data.offsets import EncodingOffsets, ListedOffsets
from tests.data.tiny import REAL, REAL_TOKENIZERS, tokenizer

ODD = [
    "", " ", "a", "  a  b  ", "\n\n\n", "e\u0301e\u0301", "\u0301", "naïve café", "日本語 text", "\ufb01n", "½ ² ™",
    "\U0001f469\u200d\U0001f467 family", "\u00a0\u2003x", "a\u200bb\u00ad", "\x00a\x01", "각각", "İstanbul ß", "a" * 40,
    "\t \r\n ", "🙂" * 5,
]  # fmt: skip
TEXT = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(ODD), max_size=6).map("".join))
KINDS = ("bytes", "word_pieces", "unigrams", "dropping")


@cache
def core(kind: str) -> Tokenizer:
    if kind == "bytes":
        return tokenizer().backend_tokenizer
    if kind == "unigrams":
        pieces = [("<unk>", 0.0), ("\u2581", -2.0), *((letter, -4.0) for letter in "abeinrty"), ("\u2581a", -3.0)]
        built = Tokenizer(models.Unigram(pieces, 0, byte_fallback=False))
        built.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "\u2581")])
        return built
    words = {"[UNK]": 0, "a": 1, "##a": 2, "b": 3, "e": 4, "##e": 5, "x": 6, "fi": 7, "##n": 8}
    built = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    built.normalizer = normalizers.BertNormalizer(strip_accents=kind == "dropping", lowercase=True)
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return built


def assert_same(encoding: Encoding, length: int) -> None:
    listed, asked = ListedOffsets(encoding.offsets), EncodingOffsets(encoding)
    for place in range(length + 2):
        assert asked.around(place) == listed.around(place)
    assert [asked.start(token) for token in range(len(encoding))] == [first for first, _ in encoding.offsets]


def is_ascending(encoding: Encoding) -> bool:
    return all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(encoding.offsets))


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXT)
def test_tokenizer_answers_what_the_list_of_offsets_says(kind: str, text: str) -> None:
    encoding = core(kind).encode(text, add_special_tokens=False)
    assert is_ascending(encoding)
    assert_same(encoding, len(text))


@pytest.mark.parametrize("kind", KINDS)
def test_odd_texts_of_one_and_of_two(kind: str) -> None:
    for text in [*ODD, *(a + b for a in ODD for b in ODD)]:
        assert_same(core(kind).encode(text, add_special_tokens=False), len(text))


def test_long_rows_are_answered_from_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = core("bytes").encode("The answer is 4. " * 9, add_special_tokens=False)
    monkeypatch.setattr(offsets, "_MAX_SEARCHED", 5)
    assert_same(encoding, 150)


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs the real tokenizers in {REAL}")
@pytest.mark.parametrize("folder", REAL_TOKENIZERS)
def test_real_tokenizer_answers_what_the_list_of_offsets_says(folder: str) -> None:
    built = Tokenizer.from_file(str(REAL / folder / "tokenizer.json"))
    for text in [*ODD, *(a + b for a in ODD for b in ODD)]:
        for framed in (text, f"<s>[INST] {text} [/INST]", f"<|im_start|>user\n{text}<|im_end|>\n"):
            encoding = built.encode(framed, add_special_tokens=False)
            assert is_ascending(encoding)
            assert_same(encoding, len(framed))
