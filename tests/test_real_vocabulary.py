"""Whisper's real vocabulary and mel filters, from the files that openai/whisper ships (in WHISPERQ_SPEECH)."""

import base64
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import WhisperFeatureExtractor, WhisperTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from whisperq.data.tokens import make_codec

ASSETS = Path(os.environ.get("WHISPERQ_SPEECH", ""), "whisper_assets")
CONTROL = ("translate", "transcribe", "startoflm", "startofprev", "nocaptions", "notimestamps")

pytestmark = pytest.mark.skipif(
    not (ASSETS / "multilingual.tiktoken").is_file(), reason="WHISPERQ_SPEECH holds no whisper_assets"
)


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    lines = (ASSETS / "multilingual.tiktoken").read_text().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that byte-pair encoding joins last to make this token."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [(ranks.get(a + b, 1 << 30), i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))]
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


@pytest.fixture(scope="module")
def tokenizer(ranks: dict[bytes, int]) -> WhisperTokenizer:
    letters = bytes_to_unicode()

    def text(token: bytes) -> str:
        return "".join(letters[b] for b in token)

    ordered = sorted(ranks, key=ranks.get)
    vocabulary = {text(token): ranks[token] for token in ordered} | {"<|endoftext|>": len(ranks)}
    merges = [tuple(map(text, last_merge(token, ranks))) for token in ordered if len(token) > 1]
    # large-v2 knows 99 languages; Cantonese came with large-v3.
    names = ["startoftranscript", *list(LANGUAGES)[:99], *CONTROL]
    special = [AddedToken(f"<|{name}|>", special=True) for name in names]
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=special)
    tokenizer.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", special=False) for i in range(1501)])
    return tokenizer


def codec(tokenizer: WhisperTokenizer, language: str):
    model = SimpleNamespace(
        generation_config=SimpleNamespace(is_multilingual=True),
        config=SimpleNamespace(vocab_size=51865, max_target_positions=448),
    )
    return make_codec(SimpleNamespace(tokenizer=tokenizer), model, language, "transcribe")


def test_the_prompt_is_whispers(tokenizer: WhisperTokenizer) -> None:
    """The ids that openai/whisper-large-v2's own generation config gives these tokens."""
    assert len(tokenizer) == 51865
    assert codec(tokenizer, "en").prompt == (50258, 50259, 50359, 50363)
    assert codec(tokenizer, "de").prompt == (50258, 50261, 50359, 50363)


def test_text_becomes_the_vocabularys_own_words(tokenizer: WhisperTokenizer, ranks: dict[bytes, int]) -> None:
    sentence = "the quick brown fox said that it was not there"
    ids = codec(tokenizer, "en").encode(sentence)
    assert ids[:4] == [50258, 50259, 50359, 50363] and ids[-1] == 50257
    assert ids[4:-1] == [ranks[f" {word}".encode()] for word in sentence.split()]
    assert codec(tokenizer, "en").decode(ids) == sentence


@pytest.mark.parametrize("bins", [80, 128])
def test_mel_filters_are_openais(bins: int) -> None:
    theirs = np.load(ASSETS / "mel_filters.npz")[f"mel_{bins}"]
    ours = WhisperFeatureExtractor(feature_size=bins).mel_filters
    np.testing.assert_allclose(ours.T, theirs, atol=1e-6)
