"""Greedy decoding against `generate`, and its rules on a scripted runtime; the codec's prompts and labels."""

from types import SimpleNamespace

import pytest
import torch
from support.scripted_runtime import Scripted, few_words, until_end
from support.tiny import END, PROMPT, digits, features, gated_model, processor, token_id

from whisperq.data.tokens import IGNORED, make_codec
from whisperq.errors import InputError
from whisperq.runtime.decoding import Rules, greedy, make_rules
from whisperq.runtime.pytorch import PyTorchRuntime

NO_TIMESTAMPS = PROMPT[-1]


@pytest.mark.parametrize("gate, seed", [("headwise", 0), ("headwise", 1), ("elementwise", 2), ("none", 3), ("mlp", 4)])
def test_greedy_equals_generate(gate, seed):
    model = gated_model(gate, seed=seed)
    few_words(model, seed)
    rules = make_rules(make_codec(processor, model, "en", "transcribe"), model.generation_config)
    ours = greedy(PyTorchRuntime(model), features(5, seed), rules)
    theirs = model.generate(features(5, seed), num_beams=1, do_sample=False)
    assert ours == [until_end(row) for row in theirs.tolist()]
    assert all(row and row[0] not in rules.suppressed_first for row in ours)


def test_the_random_models_end_at_different_lengths():
    """Otherwise the comparison above would say little."""
    model = gated_model(seed=1)
    few_words(model, 1)
    rules = make_rules(make_codec(processor, model, "en", "transcribe"), model.generation_config)
    lengths = [len(row) for row in greedy(PyTorchRuntime(model), features(5, 1), rules)]
    assert len(set(lengths)) > 1 and min(lengths) < rules.max_tokens - len(PROMPT)


def test_a_batch_is_its_utterances():
    model = gated_model(seed=1)
    few_words(model, 1)
    rules = make_rules(make_codec(processor, model, "en", "transcribe"), model.generation_config)
    together = greedy(PyTorchRuntime(model), features(5, 1), rules)
    alone = [greedy(PyTorchRuntime(model), one[None], rules)[0] for one in features(5, 1)]
    assert together == alone


def test_each_utterance_stops_at_its_own_end():
    runtime = Scripted([[1, 9, 5, 5, 5], [1, 2, 3, 9, 5], [9, 5, 5, 5, 5]])
    rules = Rules(prompt=(8, 6), end=9, max_tokens=40)
    assert greedy(runtime, torch.zeros(3, 80, 4), rules) == [[1], [1, 2, 3], []]
    # nothing after the last end; the prompt once, then one token each, the end where an utterance is over
    assert runtime.given == [[[8, 6]] * 3, [[1], [1], [9]], [[9], [2], [9]], [[9], [3], [9]]]


def test_the_decoders_length_is_the_limit():
    rules = Rules(prompt=(8, 6), end=9, max_tokens=5)
    assert greedy(Scripted([[1, 2, 3, 4, 5]]), torch.zeros(1, 80, 4), rules) == [[1, 2, 3]]


def test_suppressed_tokens_are_never_written_and_others_not_first():
    rules = Rules(prompt=(8,), end=9, max_tokens=5, suppressed=(2,), suppressed_first=(1, 9, 50_256))
    runtime = Scripted([[1, 1, 2, 9], [9, 2, 1, 9]])
    assert greedy(runtime, torch.zeros(2, 80, 4), rules) == [[7, 1, 7], [7, 7, 1]]


def test_minus_one_among_the_suppressed_is_no_token():
    rules = Rules(prompt=(6,), end=8, max_tokens=5, suppressed=(-1,), suppressed_first=(-1, 2))
    assert greedy(Scripted([[9, 1, 9, 8]]), torch.zeros(1, 80, 4), rules) == [[9, 1, 9]]  # 9 is the last one


def test_rules_come_from_codec_and_generation_config():
    model = gated_model()
    codec = make_codec(processor, model, "en", "transcribe")
    assert make_rules(codec, model.generation_config) == Rules(PROMPT, END, digits.MAX_TOKENS)
    model.generation_config.suppress_tokens, model.generation_config.begin_suppress_tokens = [3, 4], None
    rules = make_rules(codec, model.generation_config)
    assert (rules.suppressed, rules.suppressed_first) == ((3, 4), ())


def codec_for(language="en", task="transcribe", vocab_size=316, **generation):
    model = SimpleNamespace(
        generation_config=SimpleNamespace(**generation),
        config=SimpleNamespace(vocab_size=vocab_size, max_target_positions=12),
    )
    return make_codec(processor, model, language, task)


def test_inputs_and_labels_of_known_texts():
    codec = codec_for(is_multilingual=True)
    space, a, b, c = (token_id(x) for x in ("Ġ", "a", "b", "c"))
    tokens = codec.batch([" ab ", "c", ""], ["one", "two", "three"])
    x = IGNORED
    assert tokens.inputs.tolist() == [
        [*PROMPT, space, a, b], [*PROMPT, space, c, END], [*PROMPT, END, END, END],
    ]  # fmt: skip
    assert tokens.labels.tolist() == [
        [*PROMPT[1:], space, a, b, END], [*PROMPT[1:], space, c, END, x], [*PROMPT[1:], END, x, x, x],
    ]  # fmt: skip
    assert tokens.lengths == (7, 6, 4)


@pytest.mark.parametrize("text", ["one two", "größer, 北京!", "don't"])
def test_decoding_undoes_encoding(text):
    codec = codec_for(is_multilingual=True)
    assert codec.decode(codec.encode(text)) == text


def test_a_text_that_fills_the_decoder_is_taken_and_a_longer_one_named():
    codec = codec_for(is_multilingual=True)
    assert codec.batch(["abcdefg"], ["x"]).inputs.shape == (1, 12)  # four of prompt, a space, seven letters
    with pytest.raises(InputError, match=r"^dev\.jsonl line 3: .* 14 tokens.* 13$"):
        codec.batch(["abc", "abcdefgh"], ["dev.jsonl line 2", "dev.jsonl line 3"])


@pytest.mark.parametrize(
    "language, task, generation, names",
    [
        ("en", "transcribe", {"is_multilingual": True}, ("en", "transcribe")),
        ("en", "translate", {"is_multilingual": True}, ("en", "translate")),
        (None, "transcribe", {"is_multilingual": True}, ()),
        ("en", "transcribe", {"is_multilingual": False}, ()),
        (None, "transcribe", {"is_multilingual": False}, ()),
        ("en", "transcribe", {}, ()),  # 51864 tokens, as openai/whisper-tiny.en, and no word from the config
    ],
)
def test_prompt(language, task, generation, names):
    expected = [token_id(f"<|{n}|>") for n in ("startoftranscript", *names, "notimestamps")]
    assert codec_for(language, task, vocab_size=51864, **generation).prompt == tuple(expected)


def test_a_large_vocabulary_is_multilingual():
    assert codec_for("en", "transcribe", vocab_size=51866).prompt == PROMPT


def test_unknown_languages_are_refused():
    with pytest.raises(InputError, match="English only.*'de'"):
        codec_for("de", is_multilingual=False)
    with pytest.raises(InputError, match="English only, and cannot translate"):
        codec_for(task="translate", vocab_size=51864)
    with pytest.raises(InputError, match=r"no token <\|de\|>"):
        codec_for("de", is_multilingual=True)
