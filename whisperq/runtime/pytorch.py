"""A Whisper run by PyTorch in float: as it is, or emulating integers."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from whisperq.models.gated_whisper import GatedWhisperForConditionalGeneration
from whisperq.runtime.ctc import float_products
from whisperq.runtime.interface import Products


@dataclass
class DecoderState:
    encoded: Tensor  # (batch, frames, d_model)
    cache: Any = None  # keys and values of every layer so far


class PyTorchRuntime:
    """The model as it is: float, or emulated where quantizers watch its sites."""

    def __init__(self, model: GatedWhisperForConditionalGeneration, name: str = "float") -> None:
        self.model, self.name, self.notices = model, name, ()

    def encode(self, features: Tensor) -> DecoderState:
        features = features.to(self.model.device, self.model.dtype)
        return DecoderState(self.model.model.encoder(features).last_hidden_state)

    def decode_step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        output = self.model.model.decoder(
            input_ids=tokens, encoder_hidden_states=state.encoded, past_key_values=state.cache, use_cache=True
        )
        state.cache = output.past_key_values
        return self.model.proj_out(output.last_hidden_state[:, -1]).float()

    def branch(self, state: DecoderState, rows: Tensor) -> None:
        state.cache.self_attention_cache.reorder_cache(rows)
        if len(rows) != len(state.encoded):
            state.encoded = state.encoded[rows]
            state.cache.cross_attention_cache.reorder_cache(rows)

    def products(self) -> Products:
        return float_products(self.model, self.name)
