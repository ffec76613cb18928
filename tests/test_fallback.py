"""Failures noticed and decoded again; what is asked at <|startoftranscript|>: no speech, and the language."""

import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.tiny import END, PROMPT, features, gated_model, processor

from whisperq.data.languages import code_of, name_of
from whisperq.data.tokens import make_codec
from whisperq.errors import InputError, UsageError
from whisperq.runtime.beams import BeamRules, beam_search
from whisperq.runtime.ctc import CtcRules
from whisperq.runtime.decoding import Draws, Rules, drawn, greedy, make_rules, write
from whisperq.runtime.detection import Question, Start, start
from whisperq.runtime.fallback import Care, Decoding, Written, careful, compression
from whisperq.runtime.pytorch import PyTorchRuntime

LETTERS = list("abcdefgh")
SAMPLES = [np.full(4, i, np.float32) for i in range(3)]


class Coin:
    """Two letters, nearly as likely, for six steps, then the end: greedily the first one, six times.

    Tokens: letters 0 to 7, the end 8, 9 begins. `sure`: the logit of the first letter beside the second one's 0.
    """

    def __init__(self, sure: float = 0.1, logits: int = 10) -> None:
        self.sure, self.size = sure, logits

    def encode(self, features: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(step=0, rows=len(features))

    def decode_step(self, tokens: torch.Tensor, state: SimpleNamespace) -> torch.Tensor:
        logits = torch.full((state.rows, self.size), -30.0)
        logits[:, 0], logits[:, 1:8], logits[:, 8] = self.sure, 0.0, 30.0 if state.step >= 60 else -30.0
        state.step += tokens.shape[1]
        return logits


RULES = Rules((9,), end=8, max_tokens=70)


def decoding(care: Care, runtime: object | None = None) -> Decoding:
    return Decoding(runtime or Coin(), RULES, lambda ids: "".join(LETTERS[i] for i in ids), care)


def test_a_loop_is_decoded_again():
    frames = torch.zeros(3, 80, 4)
    (plain, *_) = decoding(Care()).windows(frames, SAMPLES)
    assert plain.ids == [0] * 60 and compression("a" * 60) > 2.4
    found = decoding(Care(fallback=True)).windows(frames, SAMPLES)
    texts = ["".join(LETTERS[i] for i in one.ids) for one in found]
    assert all(len(text) == 60 and len(set(text)) > 3 for text in texts) and len(set(texts)) == 3


def test_what_is_drawn_follows_from_seed_and_samples_alone():
    frames = torch.zeros(3, 80, 4)
    together = [one.ids for one in decoding(Care(True)).windows(frames, SAMPLES)]
    alone = [decoding(Care(True)).windows(frames[:1], [samples])[0].ids for samples in SAMPLES]
    other = [one.ids for one in decoding(Care(True, seed=1)).windows(frames, SAMPLES)]
    assert together == alone and together != other


def test_what_does_not_fail_is_left_alone():
    """Of three windows the one in the middle fails: it alone is encoded again."""
    runtime, sizes = Coin(sure=20.0), []
    encode = runtime.encode
    runtime.encode = lambda f: sizes.append(len(f)) or encode(f)
    texts = iter(["fine", "a" * 60, "fine too", *["another"] * 9])
    memory: dict[int, str] = {}
    one = Decoding(runtime, RULES, lambda ids: memory.setdefault(id(ids), next(texts)), Care(True))
    found = one.windows(torch.zeros(3, 80, 4), SAMPLES)
    assert sizes == [3, 1] and len(found) == 3


def test_the_means_are_those_of_softmax():
    (one,) = decoding(Care()).windows(torch.zeros(1, 80, 4), SAMPLES[:1])
    logits = torch.tensor([0.1, *[0.0] * 7, -30.0, -30.0], dtype=torch.float64)
    expected = 60 * logits.log_softmax(0)[0].item() / 61  # the end is certain
    assert one.mean_logprob == pytest.approx(expected, abs=1e-4)
    assert compression("hello, hello") == len("hello, hello") / len(zlib.compress(b"hello, hello"))


def test_draws_have_the_softmaxs_frequencies():
    logits = torch.tensor([[1.0, 0.0, -1.0, -torch.inf]]).repeat(4000, 1)
    numbers = [np.random.default_rng(i) for i in range(4000)]
    found = torch.bincount(drawn(logits, Draws(0.5, numbers)), minlength=4) / 4000
    torch.testing.assert_close(found, (logits[0] / 0.5).softmax(0), atol=0.02, rtol=0)


SAID = {
    "speech": (0.01, -0.2, False),
    "an unsure guess at speech": (0.3, -1.5, False),
    "openai's silence": (0.7, -1.1, True),
    "a word that is sure": (0.9, -0.3, False),
    "a still room": (0.93, -0.7, True),
}


@pytest.mark.parametrize("no_speech, mean, silent", SAID.values(), ids=SAID)
def test_what_counts_as_silence(no_speech, mean, silent):
    written = Written([1], mean, Start(None, no_speech=no_speech))
    assert Care(no_speech=0.6).silent(written) is silent
    assert not Care(no_speech=None).silent(written) and not Care(no_speech=1.0).silent(written)


def test_beams_and_ctc_have_no_temperature():
    assert careful(CtcRules(0), False, 3) == Care(seed=3)
    for rules in (CtcRules(0), BeamRules(PROMPT, END, 20)):
        with pytest.raises(UsageError, match="--temperature-fallback"):
            careful(rules, True, 0)


def test_a_prompt_in_two_parts_is_the_prompt():
    """Logits after it, and no-speech's probability where openai/whisper reads it: after the first token."""
    model = gated_model(seed=2)
    runtime, inputs, rules = PyTorchRuntime(model), features(3), Rules(PROMPT, END, 20)
    whole = start(runtime, runtime.encode(inputs), rules, inputs)
    parts = start(runtime, runtime.encode(inputs), rules, inputs, Question(no_speech=5))
    torch.testing.assert_close(parts.logits, whole.logits, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        first = model(input_features=inputs, decoder_input_ids=torch.full((3, 1), PROMPT[0])).logits[:, 0]
    torch.testing.assert_close(parts.no_speech, first.softmax(-1)[:, 5], atol=1e-5, rtol=1e-4)


def test_each_row_has_its_own_language():
    """Some tokens stand for languages; each recording is decoded as if its likeliest had been given."""
    model = gated_model(seed=3)
    runtime, inputs = PyTorchRuntime(model), features(6)
    with torch.no_grad():
        first = model(input_features=inputs, decoder_input_ids=torch.full((6, 1), PROMPT[0])).logits[:, 0]
    pairs = ((i, j) for i in range(40) for j in range(i))
    languages = next(pair for pair in pairs if len(set(first[:, pair].argmax(-1).tolist())) > 1)
    rules = Rules(PROMPT, END, 12, languages=languages)
    likeliest = [languages[i] for i in first[:, languages].argmax(-1).tolist()]
    assert len(set(likeliest)) > 1
    prompts = [(PROMPT[0], token, *PROMPT[2:]) for token in likeliest]
    expected = [greedy(runtime, x[None], Rules(p, END, 12))[0] for x, p in zip(inputs, prompts, strict=True)]
    assert greedy(runtime, inputs, rules) == expected
    found = write(runtime, inputs, rules)
    assert [one.ids for one in found] == expected and [one.start.language for one in found] == likeliest
    known = write(runtime, inputs, rules, known=[languages[0]] * 6)
    forced = greedy(runtime, inputs, Rules((PROMPT[0], languages[0], *PROMPT[2:]), END, 12))
    assert [one.ids for one in known] == forced
    alone = BeamRules(PROMPT, END, 12, languages=languages, beams=1)
    assert beam_search(runtime, inputs, alone) == expected


def test_a_model_of_many_languages_finds_out_which_where_none_is_given(monkeypatch):
    model = gated_model()
    monkeypatch.setattr("whisperq.data.tokens.languages_of", lambda tokenizer: {"en": PROMPT[1], "fr": 10})
    codec = make_codec(processor, model, None, "transcribe")
    rules = make_rules(codec, model.generation_config)
    assert rules.languages == (PROMPT[1], 10) and rules.prompt == PROMPT
    given = make_rules(make_codec(processor, model, "English", "transcribe"), model.generation_config)
    assert given.languages == () and given.prompt == PROMPT


@pytest.mark.parametrize("text", ["fr", "French", "french", " FR ", "<|fr|>"])
def test_a_language_by_code_and_name(text):
    assert code_of(text) == "fr" and name_of("fr") == "French (fr)"


def test_other_names_and_none():
    assert (code_of("Castilian"), code_of("mandarin")) == ("es", "zh")
    with pytest.raises(InputError, match="did you mean german"):
        code_of("Germann")
    with pytest.raises(InputError, match="a code such as fr"):
        code_of("qq")
