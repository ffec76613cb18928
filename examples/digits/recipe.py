"""The digits teacher: its size, its start and the settings it is trained with."""

import math
from dataclasses import dataclass

from make_tokenizer import MAX_TOKENS, make_generation_config
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome; training ends at `steps` or `minutes`."""

    steps: int = 20000
    minutes: float = 27.0
    batch: int = 16
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 200
    short_steps: int = 300  # begin with strings of up to three digits
    real_share: float = 0.65
    frame_weight: float = 1.0  # falls linearly to a fifth
    clip: float = 1.0
    bf16: bool = True
    seed: int = 0
    eval_every: int = 400


def build_model(processor: WhisperProcessor) -> WhisperForConditionalGeneration:
    """About three million parameters; convolutions He-initialised, the rest at 0.05."""
    ids = processor.tokenizer.convert_tokens_to_ids
    end, start = ids("<|endoftext|>"), ids("<|startoftranscript|>")
    extractor = processor.feature_extractor
    config = WhisperConfig(
        vocab_size=len(processor.tokenizer), num_mel_bins=extractor.feature_size,
        d_model=160, encoder_layers=6, decoder_layers=3,
        encoder_attention_heads=5, decoder_attention_heads=5,
        encoder_ffn_dim=640, decoder_ffn_dim=640,
        max_source_positions=extractor.nb_max_frames // 2, max_target_positions=MAX_TOKENS,
        init_std=0.05, decoder_start_token_id=start,
        pad_token_id=end, bos_token_id=end, eos_token_id=end,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    for conv in (model.model.encoder.conv1, model.model.encoder.conv2):
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    model.generation_config = make_generation_config(processor.tokenizer)
    return model


def schedule(step: int, progress: float, settings: Settings) -> float:
    """Warm-up, then a cosine over the run; `progress` 0..1 is by time or by steps, from step 1."""
    return min(1.0, step / settings.warmup) * 0.5 * (1 + math.cos(math.pi * progress))
