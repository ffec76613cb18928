"""A Whisper run by PyTorch: encode, and decode one step."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from whisperq.models.gated_whisper import GatedWhisperForConditionalGeneration


class Runtime(Protocol):
    """What greedy decoding needs of any runtime."""

    def encode(self, features: Tensor) -> Any:
        """features (batch, mel bins, frames) -> a decoder state."""

    def decode_step(self, tokens: Tensor, state: Any) -> Tensor:
        """tokens (batch, new tokens) -> logits (batch, vocabulary) after the last of them; moves the state on."""


@dataclass
class DecoderState:
    encoded: Tensor  # (batch, frames, d_model)
    cache: Any = None  # keys and values of every layer so far


class PyTorchRuntime:
    """The model as it is: float, or emulated where quantizers watch its sites."""

    def __init__(self, model: GatedWhisperForConditionalGeneration) -> None:
        self.model = model

    def encode(self, features: Tensor) -> DecoderState:
        features = features.to(self.model.device, self.model.dtype)
        return DecoderState(self.model.model.encoder(features).last_hidden_state)

    def decode_step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        output = self.model.model.decoder(
            input_ids=tokens, encoder_hidden_states=state.encoded, past_key_values=state.cache, use_cache=True
        )
        state.cache = output.past_key_values
        return self.model.proj_out(output.last_hidden_state[:, -1]).float()
