"""Folders that are nearly a model: what is missing from them or too much, and what to do about it."""

import json
import re
from pathlib import Path
from typing import Any

from whisperq.disk import is_pointer
from whisperq.errors import InputError

# What torch.compile and DataParallel put into the names of parameters; also as transformers takes it for loading.
WRAPPINGS = {r"_orig_mod\.": "", r"^module\.": ""}
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
OTHERS = {
    "model.bin": "CTranslate2, which faster-whisper runs",
    "ggml*.bin": "whisper.cpp",
    "*.gguf": "whisper.cpp",
    "flax_model*.msgpack": "Flax",
    "tf_model*.h5": "TensorFlow",
    "*.onnx": "ONNX Runtime",
}
ADAPTER = "adapter_config.json"
POINTED = ("*.json", "*.txt", "*.safetensors", "*.bin")


def refuse_nearly(folder: Path) -> None:
    """Raises InputError for what a folder has in place of a model's files, with the remedy; else does nothing."""
    if pointer := next((f for pattern in POINTED for f in sorted(folder.glob(pattern)) if _points(f)), None):
        raise InputError(
            f"{pointer} is a pointer of Git LFS, not the file itself: run `git lfs pull` in {folder}, "
            "or fetch the model again with `hf download`"
        )
    if any(folder.glob("*.safetensors")) and not (folder / ADAPTER).exists():
        return
    if (folder / ADAPTER).is_file() and not any(folder.glob("model*.safetensors")):
        raise InputError(
            f"{folder} holds an adapter (LoRA), no model: merge it into its base model{_base(folder / ADAPTER)} first, "
            "with peft's merge_and_unload(), and save that with save_pretrained()"
        )
    if pickle := next((f for pattern in PICKLES for f in sorted(folder.glob(pattern))), None):
        raise InputError(
            f"{folder} holds its weights as {pickle.name}, which can run code when it is read, and whisperq reads "
            f"safetensors alone: if you trust it, load it once with transformers' from_pretrained() and save it with "
            "save_pretrained()"
        )
    for pattern, engine in OTHERS.items():
        if file := next(iter(sorted(folder.glob(pattern))), None):
            raise InputError(
                f"{folder} holds {file.name}, weights for {engine}: whisperq needs the model as transformers saves it, "
                "config.json with safetensors"
            )


def _points(file: Path) -> bool:
    if not file.is_file() or file.stat().st_size > 1024:
        return False
    with open(file, "rb") as opened:
        return is_pointer(opened.read(64))


def _base(config: Path) -> str:
    try:
        name = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" {name}" if isinstance(name, str) else ""


def plain_name(name: str) -> str:
    """A parameter's name without what wrappings put into it."""
    for wrapping in WRAPPINGS:
        name = re.sub(wrapping, "", name)
    return name


def stored_name(file: Any, name: str) -> str:
    """Name of a parameter in an open safetensors file, where it may be wrapped."""
    names = file.keys()
    return name if name in names else next((own for own in names if plain_name(own) == name), name)
