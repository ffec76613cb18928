"""Saved models, reloaded by whisperq, and by transformers in a process that cannot import whisperq."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.tiny import (
    END,
    PROMPT,
    decoder_ids,
    digits,
    features,
    gated_model,
    logits_of,
    processor,
    stock_twin,
    token_id,
)
from transformers import (
    AutoModelForSpeechSeq2Seq,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from whisperq.data.tokens import make_codec
from whisperq.errors import InputError
from whisperq.models.gated_whisper import GATES
from whisperq.models.loading import load_model, load_processor, save_model
from whisperq.runtime.decoding import greedy, make_rules
from whisperq.runtime.pytorch import PyTorchRuntime

ELSEWHERE = ("headwise", "mlp", "elementwise")
LETTERS = {token_id(c) for c in "abcdefghijklmnopqrstuvwxyz"} | {token_id("Ġ"), END}

# What a stranger's process does with the saved folders.
STRANGER = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "whisperq":
            raise ModuleNotFoundError("whisperq is not to be had here")

sys.meta_path.insert(0, Blocker())
try:
    import whisperq
    raise SystemExit("whisperq could be imported")
except ModuleNotFoundError:
    pass

import numpy as np, torch
from transformers import AutoModelForSpeechSeq2Seq, pipeline

task = torch.load("task.pt")
torch.set_num_threads(1)
results = {}
for name in task["names"]:
    model = AutoModelForSpeechSeq2Seq.from_pretrained(name, trust_remote_code=True).eval()
    with torch.no_grad():
        logits = model(input_features=task["features"], decoder_input_ids=task["ids"]).logits
    asr = pipeline("automatic-speech-recognition", model=name, trust_remote_code=True, device="cpu")
    audio = {"raw": task["audio"].numpy(), "sampling_rate": 16000}
    text = asr(audio, generate_kwargs={"num_beams": 1})["text"]
    results[name] = {"logits": logits, "text": text, "type": type(model).__name__}
torch.save(results, "results.pt")
"""


def lettered(gate: str, seed: int = 1):
    """A model that can only write small letters and spaces, so that its text survives decoding."""
    model = gated_model(gate, seed=seed)
    model.generation_config.suppress_tokens = [i for i in range(model.config.vocab_size) if i not in LETTERS]
    return model


@pytest.fixture(scope="module")
def audio() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, 12_000).astype(np.float32)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, audio):
    """The models saved here and used by a stranger: (model, what the stranger got) for each gate."""
    work = tmp_path_factory.mktemp("elsewhere")
    models = {gate: lettered(gate) for gate in ELSEWHERE}
    for gate, model in models.items():
        save_model(model, processor, work / gate)
    task = {"names": list(models), "features": features(), "ids": decoder_ids(), "audio": torch.from_numpy(audio)}
    torch.save(task, work / "task.pt")
    hidden = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    environment = hidden | {"HF_MODULES_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER], cwd=work, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return models, torch.load(work / "results.pt")


@pytest.mark.slow
@pytest.mark.parametrize("gate", ELSEWHERE)
def test_transformers_alone_computes_the_same_logits(elsewhere, gate):
    models, results = elsewhere
    assert results[gate]["type"] == "GatedWhisperForConditionalGeneration"
    torch.testing.assert_close(results[gate]["logits"], logits_of(models[gate]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("gate", ELSEWHERE)
def test_the_stock_pipeline_transcribes_as_whisperq_does(elsewhere, audio, gate):
    models, results = elsewhere
    model = models[gate]
    codec = make_codec(processor, model, "en", "transcribe")
    features = processor.feature_extractor(audio, sampling_rate=16000, return_tensors="pt").input_features
    ids = greedy(PyTorchRuntime(model), features, make_rules(codec, model.generation_config))[0]
    assert len(codec.decode(ids)) > 3
    assert results[gate]["text"].strip() == codec.decode(ids)


@pytest.mark.parametrize("gate", GATES)
def test_a_saved_model_reloads_with_the_same_bits(gate, tmp_path):
    model = gated_model(gate, gate_init=0.25)
    save_model(model, processor, tmp_path)
    again = load_model(tmp_path, torch.float32, "cpu")
    assert (again.config.gate, again.config.gate_init) == (gate, 0.5 if gate == "none" else 0.25)
    old, new = model.state_dict(), again.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[k], new[k]) for k in old)
    assert torch.equal(logits_of(model), logits_of(again))
    assert again.generation_config.to_dict() == model.generation_config.to_dict()


@pytest.mark.parametrize("gate", ["headwise", "none"])
def test_a_second_generation_is_the_first(gate, tmp_path):
    save_model(gated_model(gate), processor, tmp_path / "a")
    save_model(load_model(tmp_path / "a", torch.float32, "cpu"), load_processor(tmp_path / "a"), tmp_path / "b")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    names.remove("tokenizer_config.json")  # transformers adds how it was loaded
    assert [n for n in names if (tmp_path / "a" / n).read_bytes() != (tmp_path / "b" / n).read_bytes()] == []


def test_encoder_positions_stay_untrained_after_loading(tmp_path):
    save_model(gated_model(), processor, tmp_path)
    frozen = [n for n, p in load_model(tmp_path, torch.float32, "cpu").named_parameters() if not p.requires_grad]
    assert frozen == ["model.encoder.embed_positions.weight"]


def test_a_student_without_gates_is_a_stock_checkpoint(tmp_path):
    model = gated_model("none")
    save_model(model, processor, tmp_path)
    assert not list(tmp_path.glob("*.py"))
    stock = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path).eval()
    assert type(stock) is WhisperForConditionalGeneration
    assert torch.equal(logits_of(stock), logits_of(model))


def test_with_whisperq_a_gated_folder_needs_no_remote_code(tmp_path):
    model = gated_model()
    save_model(model, processor, tmp_path)
    again = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path).eval()
    assert type(again) is type(model)
    assert torch.equal(logits_of(again), logits_of(model))


def test_a_stock_checkpoint_loads_as_itself(tmp_path):
    stock = stock_twin(gated_model("none"))
    stock.save_pretrained(tmp_path)
    model = load_model(tmp_path, torch.float32, "cpu")
    assert model.config.gate == "none"
    assert torch.equal(logits_of(model), logits_of(stock))


def test_the_processor_survives(tmp_path, audio):
    save_model(gated_model(), processor, tmp_path)
    again = load_processor(tmp_path)
    assert again.tokenizer("one two").input_ids == processor.tokenizer("one two").input_ids
    assert again.feature_extractor.n_samples == 16_000
    digits.save_processor(processor, tmp_path / "twice")
    assert load_processor(tmp_path / "twice").feature_extractor.nb_max_frames == 100


def test_the_extractor_has_the_file_that_others_look_for(tmp_path):
    """faster-whisper reads no other, and without it takes 80 mel bins for granted."""
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=1)
    save_model(gated_model("none", num_mel_bins=128), WhisperProcessor(extractor, processor.tokenizer), tmp_path)
    stated = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (stated["feature_size"], stated["n_samples"], stated["hop_length"]) == (128, 16_000, 160)
    assert load_processor(tmp_path).feature_extractor.to_dict() == extractor.to_dict()


@pytest.mark.parametrize("damage", ["missing", "shape", "type"])
def test_weights_that_do_not_fit_are_refused(damage, tmp_path):
    save_model(gated_model(), processor, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    changes = {"missing": {"encoder_layers": 3}, "shape": {"gate": "elementwise"}, "type": {"model_type": "bert"}}
    (tmp_path / "config.json").write_text(json.dumps(config | changes[damage]))
    with pytest.raises(InputError, match="bert" if damage == "type" else "do not fit|cannot be read"):
        load_model(tmp_path, torch.float32, "cpu")


def first_decoder_ids(model, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """What the decoder was given first, and what generate returned."""
    seen = []
    handle = model.model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].clone()), with_kwargs=True
    )
    out = model.generate(features(), num_beams=1, do_sample=False, max_new_tokens=8, **options)
    handle.remove()
    return seen[0], out


def test_a_prompt_reaches_the_decoder_as_in_stock_whisper():
    model = gated_model(random_gates=False)
    for network in (model, twin := stock_twin(model)):
        network.generation_config.suppress_tokens = list(range(END, model.config.vocab_size))
    prompt = torch.tensor([token_id("<|startofprev|>"), *map(token_id, ("Ġ", "s", "i", "x"))])
    ours, text = first_decoder_ids(model, prompt_ids=prompt)
    theirs, stock_text = first_decoder_ids(twin, prompt_ids=prompt)
    assert ours.tolist() == theirs.tolist() == [[*prompt.tolist(), *PROMPT]] * 2
    assert torch.equal(text, stock_text)


@pytest.mark.parametrize("start", ["<|startoftranscript|>", "<|startofprev|>"])
def test_given_decoder_ids_are_left_alone(start):
    model = gated_model(random_gates=False)
    ids = torch.tensor([[token_id(start), *PROMPT[1:]]] * 2)
    ours, _ = first_decoder_ids(model, decoder_input_ids=ids)
    theirs, _ = first_decoder_ids(stock_twin(model), decoder_input_ids=ids)
    assert ours.tolist() == theirs.tolist() == ids.tolist()
