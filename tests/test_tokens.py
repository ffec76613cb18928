"""A reference is text, whatever it spells: no control token, no time, nothing that ends a sequence."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
from support.real import whisper_folder
from support.tiny import processor
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AddedToken, WhisperTokenizer

from whisperq.data.timed_words import Segment
from whisperq.data.tokens import Codec, make_codec
from whisperq.models.loading import load_processor

SPELT = (
    "<|0.00|>", "<|endoftext|>", "<|startoftranscript|> one", "one <|2.50|><|2.50|> two", "<|en|>x<|notimestamps|>",
    "<|0.0<|0.00|>0|>", "<|endoftext|><|endoftext|>", "one<|transcribe|>",
)  # fmt: skip
USUAL = ("one two", "It's 3.5 %, isn't it?", "caf\u00e9 \u4f60\u597d \U0001f600", "a < b | c > d <| e |>", "")


def codec_of(tokenizer: WhisperTokenizer) -> Codec:
    config = SimpleNamespace(vocab_size=len(tokenizer), max_target_positions=448)
    model = SimpleNamespace(config=config, generation_config=SimpleNamespace(is_multilingual=len(tokenizer) != 50363))
    return make_codec(SimpleNamespace(tokenizer=tokenizer), model, "en", "transcribe")


@pytest.mark.parametrize("text", SPELT)
def test_bytes_are_tokenised_one_by_one(text: str) -> None:
    """The digits' vocabulary has a token for each byte and no merges."""
    symbols = sorted(ByteLevel.alphabet())
    spelt = f" {text}".replace(" ", "\u0120")  # as byte-level vocabularies write a space
    assert codec_of(processor.tokenizer).words(text) == [symbols.index(c) for c in spelt]


@pytest.mark.parametrize("name", ["whisper-base", "whisper-tiny.en"])
def test_real_vocabularies_spell_it_out(name: str) -> None:
    tokenizer = load_processor(whisper_folder(name)).tokenizer
    codec = codec_of(tokenizer)
    for text in SPELT:
        ids = codec.words(text)
        assert max(ids) < codec.end  # Whisper's order: all that controls it comes behind its text
        assert tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False) == f" {text}"
    for text in USUAL:
        assert codec.words(text) == (tokenizer(f" {text}", add_special_tokens=False).input_ids if text else [])


def test_a_sequence_has_the_control_tokens_that_belong_there_and_no_more() -> None:
    codec = codec_of(processor.tokenizer)
    batch = codec.batch(["<|endoftext|>", "one"], ["a", "b"])
    assert (batch.labels == codec.end).sum() == 2
    timed = codec.encode_timed([Segment(0.0, 1.0, "<|0.50|>")])
    assert [i for i in timed if i in codec.times] == [codec.times[0], codec.times[50]]


def test_words_that_somebody_added_are_still_tokens() -> None:
    tokenizer = deepcopy(processor.tokenizer)
    tokenizer.add_tokens([AddedToken("whisperq", special=False)])
    number = tokenizer.convert_tokens_to_ids("whisperq")
    codec = Codec(tokenizer, (), tokenizer.eos_token_id, 64)
    assert codec.words("a whisperq b").count(number) == 1
    assert codec.words("whisperq<|0.00|>")[-8:] == codec.words("x<|0.00|>")[-8:]


HALVES = {
    "one \ud83d two": "one \ufffd two",
    "\ude00": "\ufffd",
    "caf\u00e9\udce9": "caf\u00e9\ufffd",
    "\ud83d\ude00": "\U0001f600",
}


@pytest.mark.parametrize("text, meant", HALVES.items(), ids=map(ascii, HALVES))
def test_half_a_surrogate_pair_is_a_character_that_nobody_could_read(text: str, meant: str) -> None:
    """JSON's escapes can hold one; in UTF-8 there is none."""
    expected = processor.tokenizer(f" {meant}", add_special_tokens=False).input_ids
    assert codec_of(processor.tokenizer).words(text) == expected
