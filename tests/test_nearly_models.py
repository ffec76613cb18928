"""Model folders as they come from elsewhere: pointers, adapters, pickles, other engines' weights, wrapped names."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_ctc
from support.audio_files import utterance
from support.damage import Case, check_refused

from whisperq.data.audio import load_audio
from whisperq.data.lists import Source, read
from whisperq.errors import InputError
from whisperq.models.loading import load_model
from whisperq.ptq.arrays import open_stored
from whisperq.ptq.checkpoint import stored_dtypes

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 151061672\n"
)


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def adapter(folder: Path, config: bool) -> None:
    without_weights(folder)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "openai/whisper-small"}))
    save_file({"base_model.model.lora_A.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")
    if not config:
        (folder / "config.json").unlink()


def put(name: str, content: bytes = b"weights") -> None:
    return lambda f: (without_weights(f), (f / name).write_bytes(content))


NEARLY = {
    "weights a pointer": (lambda f: (f / "model.safetensors").write_text(POINTER), "safetensors is a pointer of Git"),
    "tokenizer a pointer": (lambda f: (f / "tokenizer.json").write_text(POINTER), "tokenizer.json is a pointer of Git"),
    "config a pointer": (lambda f: (f / "config.json").write_text(POINTER), "git lfs pull"),
    "adapter": (lambda f: adapter(f, config=False), "holds an adapter (LoRA), no model: merge it into its base model"),
    "adapter and config": (lambda f: adapter(f, config=True), "base model openai/whisper-small first"),
    "pickle": (put("pytorch_model.bin"), "bad holds its weights as pytorch_model.bin, which can run code"),
    "pickle in parts": (put("pytorch_model-00001-of-00002.bin"), "pytorch_model-00001-of-00002.bin, which can run"),
    "OpenAI's own": (put("tiny.en.pt"), "save_pretrained()"),
    "CTranslate2": (put("model.bin"), "weights for CTranslate2, which faster-whisper runs"),
    "whisper.cpp": (put("ggml-base.bin"), "weights for whisper.cpp"),
    "Flax": (put("flax_model.msgpack"), "weights for Flax"),
}


@pytest.mark.parametrize("change, words", NEARLY.values(), ids=NEARLY)
def test_a_folder_that_is_nearly_a_model_is_told_what_to_do(change, words, workspace, teacher, invoke):
    change(Path(shutil.copytree(teacher, workspace / "bad")))
    check_refused(Case("init-student --teacher bad", 3, (words,)), invoke, workspace)


def test_other_weights_beside_safetensors_are_ignored(tmp_path, teacher):
    folder = Path(shutil.copytree(teacher, tmp_path / "model"))
    for name in ("pytorch_model.bin", "flax_model.msgpack", "model.onnx"):
        (folder / name).write_bytes(b"weights")
    load_model(folder, torch.float32, "cpu")


def wrap(folder: Path, rename) -> dict[str, torch.Tensor]:
    """The tensors under their own names."""
    tensors = load_file(folder / "model.safetensors")
    save_file({rename(name): t for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return tensors


WRAPPED = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "a part compiled": lambda name: name.replace("model.encoder.", "model.encoder._orig_mod."),
    "parallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
}


@pytest.mark.slow
@pytest.mark.parametrize("rename", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("kind", ["whisper", "wav2vec2"])
def test_names_of_wrapped_models_are_unwrapped(tmp_path, teacher, kind, rename):
    folder = tmp_path / "model"
    if kind == "whisper":
        shutil.copytree(teacher, folder)
    else:
        tiny_ctc.save_checkpoint(folder)
    dtypes, own = stored_dtypes(folder), load_model(folder, torch.float32, "cpu").state_dict()
    tensors = wrap(folder, rename)
    loaded = load_model(folder, torch.float32, "cpu").state_dict()
    assert loaded.keys() == own.keys()
    assert all(torch.equal(loaded[name], own[name]) for name in own)
    assert stored_dtypes(folder) == dtypes
    stored = open_stored(folder)
    name = next(n for n in tensors if n.endswith(("fc1.weight", "intermediate_dense.weight")))
    assert (stored.float(name) == tensors[name].numpy()).all()


def test_lists_and_recordings_that_are_pointers(tmp_path):
    (tmp_path / "a.jsonl").write_text(POINTER)
    with pytest.raises(InputError, match=r"a\.jsonl is a pointer of Git LFS.*git lfs pull"):
        read(Source(path=str(tmp_path / "a.jsonl")))
    (tmp_path / "a.wav").write_text(POINTER)
    for audio in (str(tmp_path / "a.wav"), POINTER.encode()):
        with pytest.raises(InputError, match="line 3.*is a pointer of Git LFS"):
            load_audio(utterance(audio), 16000)


def test_a_file_is_no_model(workspace, invoke):
    (workspace / "tiny.pt").write_bytes(b"weights")
    case = Case("init-student --teacher ./tiny.pt", 3, ("./tiny.pt is a file; name the folder of a model",))
    check_refused(case, invoke, workspace)
