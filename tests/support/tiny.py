"""Small Whisper models with random weights, and the processor and references that go with them."""

import importlib.util
from pathlib import Path

import torch
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

from whisperq.data.utterance import Utterance
from whisperq.models.gated_whisper import Gate, GatedWhisperConfig, GatedWhisperForConditionalGeneration

torch.set_num_threads(1)  # such small tensors only lose by being shared

WINDOW_S = 1
GATED = ("headwise", "shared", "per-head", "mlp", "elementwise")


def _load_digits_module(name: str):
    path = Path(__file__).parents[2] / "examples" / "digits" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"digits_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


digits = _load_digits_module("make_tokenizer")
processor = digits.make_processor(WINDOW_S)
token_id = processor.tokenizer.convert_tokens_to_ids
END = token_id("<|endoftext|>")
PROMPT = tuple(map(token_id, ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")))


def sizes(**changes) -> dict:
    """The keyword arguments of a tiny Whisper configuration."""
    return {
        "vocab_size": len(processor.tokenizer), "num_mel_bins": 80, "d_model": 32,
        "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_source_positions": 50 * WINDOW_S,
        "max_target_positions": digits.MAX_TOKENS, "decoder_start_token_id": PROMPT[0],
        "pad_token_id": END, "bos_token_id": END, "eos_token_id": END,
    } | changes  # fmt: skip


@torch.no_grad()
def _scramble(model: nn.Module, seed: int) -> None:
    """Weights large enough that every part matters to the logits; gates stay where they started."""
    generator = torch.Generator().manual_seed(seed)
    gates = {id(p) for m in model.modules() if isinstance(m, Gate) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) in gates or name == "model.encoder.embed_positions.weight":
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("layer_norm.weight"):
            parameter.copy_(1 + 0.2 * noise)
        elif parameter.dim() == 1:
            parameter.copy_(0.1 * noise)
        else:
            parameter.copy_(noise * (0.5 if "embed" in name else 1.5 * parameter[0].numel() ** -0.5))


@torch.no_grad()
def randomise_gates(model: nn.Module, seed: int = 7) -> None:
    """Gates that differ from one another, from input to input and from one."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, Gate):
            for parameter in module.parameters():
                parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))


def gated_model(gate: str = "headwise", seed: int = 0, random_gates: bool = True, attention: str = "sdpa", **changes):
    """A tiny gated Whisper in evaluation mode."""
    torch.manual_seed(seed)
    config = GatedWhisperConfig(gate=gate, **sizes(**changes))
    config._attn_implementation = attention
    model = GatedWhisperForConditionalGeneration(config)
    _scramble(model, seed)
    if random_gates:
        randomise_gates(model, seed + 7)
    model.generation_config = digits.make_generation_config(processor.tokenizer)
    return model.eval()


def stock_twin(model: nn.Module, attention: str = "sdpa") -> WhisperForConditionalGeneration:
    """transformers' own Whisper with the weights of a gated one, its gates left out."""
    names = sizes()
    config = WhisperConfig(**{name: getattr(model.config, name) for name in names})
    config._attn_implementation = attention
    twin = WhisperForConditionalGeneration(config)
    weights = {k: v for k, v in model.state_dict().items() if ".gate." not in k}
    assert twin.load_state_dict(weights, strict=True)
    twin.generation_config = digits.make_generation_config(processor.tokenizer)
    return twin.eval()


def features(batch: int = 2, seed: int = 0) -> torch.Tensor:
    """Random log-mel features (batch, 80, frames) in the range of real ones."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(batch, 80, 100 * WINDOW_S, generator=generator)


def decoder_ids(batch: int = 2, length: int = 9, seed: int = 0) -> torch.Tensor:
    """Random token ids (batch, length)."""
    return torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(2000 + seed))


@torch.no_grad()
def logits_of(model: nn.Module, batch: int = 2, length: int = 9, seed: int = 0) -> torch.Tensor:
    """Teacher-forced logits (batch, length, vocabulary) on random input."""
    return model(input_features=features(batch, seed), decoder_input_ids=decoder_ids(batch, length, seed)).logits


TEXTS = ["one two", "three", "four five six", "seven"]


def utterances(count: int, prefix: str = "u") -> list[Utterance]:
    return [Utterance(f"{prefix}{i}", f"{prefix}{i}.wav", TEXTS[i % 4], 1.0) for i in range(count)]
