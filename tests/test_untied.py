"""A Whisper whose output projection is no copy of its token table: both are kept, and each is used in its place."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from support.exported import difference, exported, float_folder, opened, pytorch_logits, quantized_folder, step_logits
from support.tiny import gated_model

from whisperq.models.loading import load_config
from whisperq.ptq.checkpoint import WEIGHTS
from whisperq.runtime.int8.whisper import Int8Runtime
from whisperq.training.loop import Learner

TABLE, PROJECTION = "model.decoder.embed_tokens.weight", "proj_out.weight"
MODELS = [
    {}, {"bits": 6}, {"exclude": ["proj_out"]}, {"exclude": ["dec.norm"]}, {"activation_ranges": "dynamic"},
    {"recipe": "paper"},
]  # fmt: skip


def untied_model():
    model = gated_model(tie_word_embeddings=False)
    with torch.no_grad():
        model.proj_out.weight = torch.nn.Parameter(0.3 * torch.randn_like(model.proj_out.weight))
    return model


@pytest.mark.parametrize("options", MODELS, ids=str)
def test_quantized_it_keeps_both(options, tmp_path):
    model = untied_model()
    floats = pytorch_logits(float_folder(model, tmp_path / "float"), batch=9)
    folder = quantized_folder(model, tmp_path / "model", **options)
    assert load_config(folder).tie_word_embeddings is False
    assert load_file(folder / WEIGHTS).keys() >= {TABLE, PROJECTION}
    emulated = pytorch_logits(folder, batch=9)
    assert difference(emulated, floats) < 0.5  # one table in the place of the other leaves nothing of them: 1.0
    if options.get("recipe") != "paper":
        assert difference(step_logits(Int8Runtime.load(folder, "cpu", "float32"), batch=9), emulated) < 1e-2
    if not options.keys() & {"recipe", "activation_ranges"}:
        assert difference(step_logits(opened(exported(folder), "onnx"), batch=9), emulated) < 1e-2


def test_tied_it_is_stored_once(tmp_path):
    tensors = load_file(quantized_folder(gated_model(), tmp_path / "model") / WEIGHTS)
    assert PROJECTION in tensors and TABLE not in tensors


def test_a_checkpoint_of_training_keeps_both():
    kept = [Learner.weights(SimpleNamespace(student=model)) for model in (untied_model(), gated_model())]
    assert kept[0].keys() >= {TABLE, PROJECTION} and kept[1].keys() & {TABLE, PROJECTION} == {TABLE}
