"""References are shown to the decoder behind the language that is heard, where nobody said which it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import configuration, run_command, write_configuration
from support.exported import CPU, float_folder
from support.tiny import PROMPT, gated_model, utterances

from whisperq.runtime.open import open_model
from whisperq.settings import Context

SPOKEN = [replace(u, origin=u.id) for u in utterances(6)]
OPEN = Context(device="cpu", language=None)


def noise(utterance, rate: int) -> np.ndarray:
    return np.random.default_rng(int(utterance.id[1:])).normal(0, 0.1, rate // 2).astype(np.float32)


def first_logits(folder) -> torch.Tensor:
    """Logits (utterances, vocabulary) behind <|startoftranscript|>, by transformers' own forward."""
    with open_model(folder, CPU) as opened, torch.inference_mode():
        features = opened.loader.features([noise(u, 16000) for u in SPOKEN])
        start = torch.full((len(SPOKEN), 1), PROMPT[0])
        return opened.model(input_features=features, decoder_input_ids=start).logits[:, 0]


@pytest.fixture
def folder(tmp_path):
    return float_folder(gated_model(seed=3), tmp_path / "model")


def test_each_references_prompt_has_the_language_that_is_heard(folder, monkeypatch):
    logits = first_logits(folder)
    pairs = ((i, j) for i in range(40) for j in range(i))
    pair = next(p for p in pairs if len(set(logits[:, p].argmax(-1).tolist())) > 1)
    monkeypatch.setattr("whisperq.data.tokens.languages_of", lambda _: dict(zip(("en", "fr"), pair, strict=True)))
    with open_model(folder, OPEN) as opened:
        opened.loader.decode = noise
        batch = opened.loader.labelled(SPOKEN)
        given = batch.tokens.inputs[:, : len(PROMPT)].tolist()
        assert given == [[PROMPT[0], pair[i], *PROMPT[2:]] for i in logits[:, pair].argmax(-1).tolist()]
        assert opened.loader.roles(batch, 0, "tokens", 9)["prompt"] == range(len(PROMPT))
        opened.loader.listen = lambda _: pytest.fail("whoever was heard once is not asked for again")
        assert opened.loader.labelled(SPOKEN[2:]).tokens.inputs[:, 1].tolist() == [row[1] for row in given[2:]]


def test_a_single_language_needs_no_listening(folder):
    with open_model(folder, OPEN) as opened, open_model(folder, CPU) as english:
        opened.loader.decode = english.loader.decode = noise
        tokens = [one.loader.labelled(SPOKEN).tokens for one in (opened, english)]
    assert torch.equal(tokens[0].inputs, tokens[1].inputs) and torch.equal(tokens[0].labels, tokens[1].labels)


@pytest.mark.parametrize("command", ["distill", "mixed-precision"])
def test_no_training_begins_before_the_language_is_said(command, workspace, teacher, digits, monkeypatch):
    """It would take its whole time to teach a prompt without a language."""
    write_configuration(workspace, configuration(teacher, digits) | {"language": "auto"})
    assert run_command("init-student").exit_code == 0
    monkeypatch.setattr("whisperq.data.tokens.languages_of", lambda _: {"en": PROMPT[1], "fr": PROMPT[1] - 1})
    given = ("--model", "run/student") if command == "mixed-precision" else ()
    refused = run_command(command, *given)
    assert refused.exit_code == 2 and "the language is auto, which no training finds out" in refused.stderr
    assert not list((workspace / "run").glob("*checkpoints/step-*"))
