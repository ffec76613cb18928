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
from transformers import WhisperForConditionalGeneration

from whisperq.data.audio import load_audio
from whisperq.data.lists import Source, read
from whisperq.errors import InputError
from whisperq.models.loading import load_model
from whisperq.models.weight_files import weight_files, weights_size
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


def copies(folder: Path, sharded: bool) -> None:
    """The weights in one file or several, and as whisper-large-v3 comes from the Hub: once more, in another format."""
    model = load_model(folder, torch.float32, "cpu").half()
    if sharded:
        (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB" if sharded else "1GB")
    others = {name: t + 1 for name, t in model.float().state_dict().items() if name != "proj_out.weight"}
    names = [name for name in others if name.startswith("model.decoder")]
    save_file({name: others[name] for name in names}, folder / "model.fp32-00002-of-00002.safetensors")
    save_file({n: others[n] for n in others.keys() - {*names}}, folder / "model.fp32-00001-of-00002.safetensors")
    save_file(others, folder / "model.zz.safetensors")
    save_file({"exp_avg": torch.zeros(10_000)}, folder / "optimizer.safetensors")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "encoder_model.onnx").write_bytes(bytes(100_000))


@pytest.mark.parametrize("sharded", [False, True])
def test_weights_in_another_format_beside_those_that_are_read(sharded, tmp_path, workspace, teacher, invoke):
    folder = Path(shutil.copytree(teacher, workspace / "model"))
    copies(folder, sharded)
    shards = [p for p in folder.glob("model*.safetensors") if p.name.split(".")[1] == "safetensors"]
    assert weight_files(folder) == sorted(shards) and (len(shards) > 1) == sharded
    theirs = WhisperForConditionalGeneration.from_pretrained(folder).state_dict()
    stored = open_stored(folder)
    assert all((stored.float(name) == theirs[name].numpy()).all() for name in theirs if "layers" in name)
    assert {*stored_dtypes(folder).values()} == {torch.float16}
    done = invoke("quantize", "--model", "model", "--activations", "none", "--out", "made", "--json")
    assert done.exit_code == 0, done.output
    size = sum(p.stat().st_size for p in shards)
    assert json.loads(done.stdout)["results"]["float_bytes"] == size == weights_size(folder)
    assert weights_size(workspace / "made") == json.loads(done.stdout)["results"]["bytes"]


@pytest.mark.parametrize(
    "index", ["{", "[]", '{"weight_map": 1}', '{"weight_map": {"a": ["b"]}}', '{"weight_map": {}}']
)
def test_an_index_that_cannot_be_used_leaves_the_files(index, tmp_path):
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert [path.name for path in weight_files(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]


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
