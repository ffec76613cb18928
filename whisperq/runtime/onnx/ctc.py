"""An exported wav2vec 2.0 or HuBERT with a CTC head, run by ONNX Runtime or by OpenVINO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from whisperq.models.ctc import shortest
from whisperq.runtime.interface import Products
from whisperq.runtime.onnx.engines import Engine, Network
from whisperq.runtime.onnx.integer_matmuls import executed_products
from whisperq.runtime.pipeline import OUTPUTS

(MODEL,) = OUTPUTS["ctc"].graphs


def run_ctc(engine: Engine, paths: Mapping[str, Path], config: PreTrainedConfig) -> "GraphCtc":
    return GraphCtc(engine, paths[MODEL], config)


@dataclass
class GraphCtc:
    """One graph, loaded when it is first needed; each utterance is run alone, for the graph has no mask."""

    engine: Engine
    path: Path
    config: PreTrainedConfig
    notices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.engine.name

    @cached_property
    def network(self) -> Network:
        return self.engine.load(self.path)

    def logits(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Each waveform (samples), float32, normalised -> (frames, vocabulary), float32."""
        return [self._logits(waveform.to(torch.float32)) for waveform in waveforms]

    def _logits(self, waveform: Tensor) -> Tensor:
        if len(waveform) < shortest(self.config):
            return torch.empty(0, self.config.vocab_size)
        outputs = self.network.run({"input_values": self.engine.value(waveform[None].numpy())})
        return torch.from_numpy(np.array(self.engine.array(outputs["logits"])[0], np.float32))

    def products(self) -> Products:
        return self._products

    @cached_property
    def _products(self) -> Products:
        return executed_products(self.engine, {MODEL: self.path}, output="ctc_head")
