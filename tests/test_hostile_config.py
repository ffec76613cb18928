"""A broken or hostile config.json, and files beside it that are another model's: refused before anything is built."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_ctc
from support.damage import change_json, change_weights, refusal
from support.real import whisper_folder
from support.tiny import END, PROMPT, features
from transformers import AddedToken, WhisperFeatureExtractor, WhisperTokenizer

from whisperq.data.waveforms import Waveforms
from whisperq.errors import InputError
from whisperq.models.loading import load_config, load_model, load_processor
from whisperq.runtime.beams import with_beams
from whisperq.runtime.ctc import CtcRules
from whisperq.runtime.decoding import Rules

FIELDS = {
    "encoder layers": ("encoder_layers", 10**6, "encoder_layers is 1000000, but the weights have 4"),
    "decoder layers": ("decoder_layers", 2, "decoder_layers is 2, but the weights have 3"),
    "layers beyond any": ("decoder_layers", 10**30, "decoder_layers is 1000"),
    "no layers": ("encoder_layers", 0, "encoder_layers is 0"),
    "half a layer": ("encoder_layers", 1.5, "encoder_layers is 1.5"),
    "width": ("d_model", 10**7, "d_model is 10000000, but model.encoder.layer_norm.weight"),
    "feed-forward": ("decoder_ffn_dim", 65, "decoder_ffn_dim is 65"),
    "windows": ("max_source_positions", 10**7, "max_source_positions is 10000000"),
    "tokens": ("max_target_positions", 3, "max_target_positions is 3"),
    "mel bins": ("num_mel_bins", 128, "num_mel_bins is 128"),
    "vocabulary": ("vocab_size", 10**7, "vocab_size is 10000000"),
    "heads": ("encoder_attention_heads", 3, "encoder_attention_heads, 3, does not divide"),
    "no heads": ("decoder_attention_heads", 0, "decoder_attention_heads is 0"),
    "a token out of range": ("decoder_start_token_id", 10**6, "decoder_start_token_id is 1000000"),
    "a negative token": ("eos_token_id", -1, "eos_token_id is -1"),
    "a token as a text": ("bos_token_id", "5", 'bos_token_id is "5"'),
    "dropout NaN": ("dropout", float("nan"), "dropout is NaN"),
    "dropout one": ("attention_dropout", 1.0, "attention_dropout is 1.0, but must be below 1"),
    "dropout below zero": ("activation_dropout", -0.1, "activation_dropout is -0.1"),
    "layerdrop infinite": ("encoder_layerdrop", float("inf"), "encoder_layerdrop is Infinity"),
    "number format": ("dtype", "float99", 'dtype is "float99"'),
    "old number format": ("torch_dtype", "evil", 'torch_dtype is "evil"'),
    "activation function": ("activation_function", "gleu", "activation_function is 'gleu'"),
    "gate": ("gate", "open", 'gate is "open"'),
    "gate's start": ("gate_init", 0.0, "gate_init is 0.0"),
    "languages in a list": ("lang_to_id", [1, 2], "lang_to_id is [1, 2]"),
    "tasks as a number": ("task_to_id", 5, "task_to_id is 5"),
    "any other number": ("init_std", float("nan"), "init_std is NaN"),
}


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("field, value, words", FIELDS.values(), ids=FIELDS)
def test_config_json_is_held_against_the_weights(field, value, words, teacher, tmp_path):
    folder = Path(shutil.copytree(teacher, tmp_path / "bad"))
    change_json(folder / "config.json", **{field: value})
    before = peak_memory()
    with pytest.raises(InputError) as error:
        load_model(folder, torch.float32, "cpu")
    assert peak_memory() - before < 2**28  # refused before anything is built
    assert words in str(error.value) and "config.json" in str(error.value)


@pytest.mark.parametrize("field, value", {
    "num_labels": 10**9, "id2label": {"a": "b"}, "return_dict": False, "output_attentions": True,
    "output_hidden_states": True, "layer_types": ["a"], "attn_implementation": "flash_attention_9", "torchscript": True,
}.items())  # fmt: skip
def test_what_is_not_about_speech_is_not_read(field, value, teacher, tmp_path):
    """A number of classes is made into as many names; a tuple instead of named outputs is nobody's wish here."""
    folder = Path(shutil.copytree(teacher, tmp_path / "odd"))
    change_json(folder / "config.json", **{field: value})
    models = [load_model(one, torch.float32, "cpu") for one in (teacher, folder)]
    assert len(models[1].config.id2label) < 10
    inputs = {"input_features": torch.zeros(1, 80, 400), "decoder_input_ids": torch.tensor([[3, 4]])}
    with torch.inference_mode():
        assert torch.equal(*(model(**inputs, use_cache=True).logits for model in models))


def test_the_same_of_a_quantized_one(copied_run):
    folder = copied_run / "quantized/gemm-w8a8"
    change_json(folder / "config.json", decoder_layers=10**6)
    with pytest.raises(InputError, match="decoder_layers is 1000000, but the weights have 2"):
        load_config(folder)


GENERATION = {
    "languages in a list": ("lang_to_id", [1, 2], "lang_to_id is [1, 2]"),
    "a language out of range": ("lang_to_id", {"<|en|>": 10**6}, "lang_to_id is 1000000, but the vocabulary has"),
    "suppressed as a text": ("suppress_tokens", "all", 'suppress_tokens is "all"'),
    "an end out of range": ("eos_token_id", [3, 10**6], "eos_token_id is 1000000"),
    "a temperature of NaN": ("temperature", float("nan"), "NaN"),
    "heads of three": ("alignment_heads", [[1, 2, 3]], "alignment_heads.0 is [1, 2, 3]"),
}


@pytest.mark.parametrize("field, value, words", GENERATION.values(), ids=GENERATION)
def test_generation_config_json_is_looked_at_too(field, value, words, teacher, tmp_path):
    folder = Path(shutil.copytree(teacher, tmp_path / "bad"))
    change_json(folder / "generation_config.json", **{field: value})
    with pytest.raises(InputError) as error:
        load_config(folder)
    assert words in str(error.value) and "generation_config.json" in str(error.value)


CTC_FIELDS = {
    "layers": ("num_hidden_layers", 10**6, "num_hidden_layers is 1000000"),
    "convolutions": ("conv_dim", [16] * 1000, "convolutional layers"),
    "an empty list": ("conv_kernel", [], "convolutional layers"),
    "a kernel of zero": ("conv_kernel", [0, 3, 2], "conv_kernel.0 is 0"),
    "dropout": ("hidden_dropout", 2.0, "hidden_dropout is 2.0"),
    "the blank": ("pad_token_id", 99, "pad_token_id is 99, but the vocabulary has 20"),
    "vocabulary": ("vocab_size", 50, "vocab_size is 50, but lm_head.bias"),
    "norm": ("feat_extract_norm", "batch", 'feat_extract_norm is "batch"'),
}


@pytest.mark.parametrize("field, value, words", CTC_FIELDS.values(), ids=CTC_FIELDS)
def test_config_json_of_a_ctc_model(field, value, words, tmp_path):
    tiny_ctc.save_checkpoint(tmp_path)
    assert load_config(tmp_path)
    change_json(tmp_path / "config.json", **{field: value})
    with pytest.raises(InputError) as error:
        load_model(tmp_path, torch.float32, "cpu")
    assert words in str(error.value)


def _tokenizer(folder: Path, change: Callable[[WhisperTokenizer], object]) -> None:
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    change(tokenizer)
    tokenizer.save_pretrained(folder)


def _shift(folder: Path) -> None:
    """As the multilingual vocabulary is beside the English one: one word more, and every special token behind it."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    first = min(token["id"] for token in content["added_tokens"])
    for token in content["added_tokens"]:
        token["id"] += 1
    vocabulary = {word: index + (index >= first) for word, index in content["model"]["vocab"].items()}
    content["model"]["vocab"] = vocabulary | {"another": first}
    path.write_text(json.dumps(content))


def _extractor(folder: Path, **settings: Any) -> None:
    (folder / "processor_config.json").unlink()  # newer versions keep a copy there, which is read first
    WhisperFeatureExtractor(**{"feature_size": 80, "chunk_length": 4, **settings}).save_pretrained(folder)


def _extracting(**settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "processor_config.json").unlink()
        change_json(folder / "preprocessor_config.json", **settings)

    return change


STRANGERS = {
    "mel bins to fill the memory": (_extracting(feature_size=10**9), "feature_size is 1000000000"),
    "no mel bins": (_extracting(feature_size=-1), "feature_size is -1"),
    "mel bins as a text": (_extracting(feature_size="80"), 'feature_size is "80"'),
    "a transform to fill the memory": (_extracting(n_fft=10**9), "n_fft is 1000000000"),
    "steps of nothing": (_extracting(hop_length=0), "hop_length is 0"),
    "a rate below zero": (_extracting(sampling_rate=-16_000), "sampling_rate is -16000"),
    "windows of years": (_extracting(chunk_length=10**9), "chunk_length is 1000000000"),
    "another tokenizer": (_shift, "the tokenizer of {} is not this model's"),
    "another end": (lambda f: change_json(f / "config.json", eos_token_id=3), "its <|endoftext|> is"),
    "another start": (lambda f: change_json(f / "generation_config.json", decoder_start_token_id=3), "its <|startof"),
    "another sign for no times": (
        lambda f: change_json(f / "generation_config.json", no_timestamps_token_id=3), "its <|notimestamps|> is"
    ),
    "another language's id": (
        lambda f: change_json(f / "generation_config.json", lang_to_id={"<|en|>": 3}), "3 in lang_to_id"
    ),
    "more tokens than the model has": (
        lambda f: _tokenizer(f, lambda t: t.add_tokens([AddedToken("zebra")])), "token zebra is"
    ),
    "128 mel bins": (lambda f: _extractor(f, feature_size=128), "makes 128 mel bins, but the model takes 80"),
    "30 seconds": (lambda f: _extractor(f, chunk_length=30), "windows of 3000 frames, but the model takes 400"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", [
    "init-student --teacher ./bad --layers 2", "calibrate --model ./bad --batches 1",
    "quantize --model ./bad --activations dynamic",
])  # fmt: skip
@pytest.mark.parametrize("change, words", STRANGERS.values(), ids=STRANGERS)
def test_files_of_another_model_are_refused(change, words, command, teacher, workspace, invoke):
    folder = Path(shutil.copytree(teacher, workspace / "bad"))
    change(folder)
    result = invoke(*command.split())
    assert result.exit_code == 3 and words.format("bad") in refusal(result)


def test_vocabulary_added_behind_the_times_is_the_models_own(teacher, tmp_path):
    """One more word, and one more row of the table."""
    folder = Path(shutil.copytree(teacher, tmp_path / "grown"))
    _tokenizer(folder, lambda t: t.add_tokens([AddedToken("zebra")]))
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    table = "model.decoder.embed_tokens.weight"
    change_weights(folder, lambda t: t.update({table: torch.cat([t[table], t[table][:1]])}))
    change_json(folder / "config.json", vocab_size=size + 1)
    assert load_model(folder, torch.float32, "cpu").config.vocab_size == size + 1
    assert load_processor(folder).tokenizer.convert_tokens_to_ids("zebra") == size


def test_settings_of_a_ctc_extractor_that_cannot_be_are_refused(tmp_path):
    tiny_ctc.save_checkpoint(tmp_path)
    path = tmp_path / "processor_config.json"
    whole = json.loads(path.read_text())
    for field, value in {"sampling_rate": 10**9, "do_normalize": "yes"}.items():
        change_json(path, feature_extractor=whole["feature_extractor"] | {field: value})
        with pytest.raises(InputError, match=f"cannot be used: {field} is"):
            load_processor(tmp_path)


def test_a_ctc_blank_of_another_id_is_refused(tmp_path):
    tiny_ctc.save_checkpoint(tmp_path)
    assert load_processor(tmp_path)
    change_json(tmp_path / "config.json", pad_token_id=3)
    with pytest.raises(InputError, match="its blank is 0, but config.json says pad_token_id 3"):
        load_processor(tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite_are_refused_by_name(value, teacher, workspace, digits, invoke):
    folder, name = Path(shutil.copytree(teacher, workspace / "bad")), "model.decoder.layers.1.fc1.weight"
    change_weights(folder, lambda t: t[name].view(-1)[-1:].fill_(float(value)))
    for command in ("init-student --teacher ./bad", "eval --model ./bad", "export --float --model ./bad --out new"):
        result = invoke(*command.split())
        assert result.exit_code == 3 and name in refusal(result) and "not finite" in refusal(result)


class Broken:
    """A runtime whose logits go wrong at its third step, in one row."""

    name, notices = "broken", ()

    def __init__(self, value: float) -> None:
        self.value, self.steps = value, 0

    def encode(self, features: torch.Tensor) -> None:
        self.steps = 0

    def decode_step(self, tokens: torch.Tensor, state: None) -> torch.Tensor:
        self.steps += 1
        logits = torch.zeros(len(tokens), 300)
        logits[:, 7] = 1.0
        if self.steps == 3:
            logits[-1, 5] = self.value
        return logits

    def branch(self, state: None, rows: torch.Tensor) -> None: ...

    def logits(self, waveforms: list[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.full((4, 20), self.value) for _ in waveforms]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("beams", [1, 2])
def test_logits_that_are_not_finite_stop_decoding(beams, value):
    rules = with_beams(Rules(PROMPT, END, 20, suppressed=(1, 2)), beams)
    with pytest.raises(InputError, match="logits are not finite"):
        rules.read(Broken(value), features(2))
    assert rules.read(Broken(0.0), features(2))  # what is suppressed, minus infinity, is none of that


def test_the_same_of_ctc():
    with pytest.raises(InputError, match="logits are not finite"):
        CtcRules(0).read(Broken(float("nan")), Waveforms(torch.zeros(1, 10), (10,)))


@pytest.mark.parametrize("own, other", [("whisper-tiny.en", "whisper-base"), ("whisper-base", "whisper-tiny.en")])
def test_openais_tokenizers_are_told_apart(own, other, tmp_path):
    model, stranger = whisper_folder(own), whisper_folder(other)
    assert load_processor(model)
    for file in model.iterdir():
        source = stranger if file.name.startswith("tokenizer") else model
        (tmp_path / file.name).symlink_to(source / file.name)
    with pytest.raises(InputError, match="is not this model's: its <|endoftext|> is"):
        load_processor(tmp_path)


def test_half_precision_that_overflows_by_its_sum_is_finite(tmp_path):
    """70,000 ones overflow float16 when added up; each by itself is finite."""
    from whisperq.models.headers import all_finite

    many = torch.full((70_000,), 60_000.0, dtype=torch.float16)
    assert all_finite(many) and all_finite(torch.full((4,), 3e38)) and not all_finite(torch.tensor([1.0, torch.nan]))
    assert all_finite(torch.tensor([3], dtype=torch.int64)) and not all_finite(torch.tensor([-torch.inf]).bfloat16())
