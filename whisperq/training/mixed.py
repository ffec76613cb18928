"""Bit-widths and weights of a network, learned together in one stage (Xu et al. 2025, arXiv 2501.03643).

    L = a_task L_task + a_KL KL(float || quantized)   so that   B = sum_l n_l E_l[b] / sum_l n_l = T

Every quantizable weight w (layer l: one weight tensor, n_l values) lies behind its candidates (`quant.learned`); the
network computes with the mixture w^, whose probabilities are drawn once a step by Gumbel-softmax, under a price of a
bit that keeps the mean width B at the target T (`quant.gumbel`). Then every layer keeps one width: of all choices that
meet the target the one of the greatest sum of logits (`quant.allocation`), and the rest of the steps train at these
widths. The paper gives neither its losses' weights nor how it meets a target: size term, schedule and discretisation
are ours.

The network's own parameters hold w^ while it computes, and get dL/dw^; one more step back gives the gradients of w,
scales and logits. So whatever runs the network, several processes too, need not know of any of this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from whisperq.jobs.distributed import ALONE, Processes
from whisperq.models.layer_weights import Weight
from whisperq.ptq.checkpoint import QuantizedWeight
from whisperq.quant.allocation import allocate, mean_bits
from whisperq.quant.grid import quantize, storage_dtype
from whisperq.quant.gumbel import gumbel_noise, priced, relaxed, temperature
from whisperq.quant.learned import initial_scales, mixture, relative_errors, symmetric_qparams
from whisperq.training.checkpoints import require_like
from whisperq.training.loop import Learner
from whisperq.training.training_pair import TrainingPair
from whisperq.training_options import MixedPrecisionConfig

SCALES, LOGITS, CHOICE = ":log_scales", "bits:logits", "bits:choice"
UNDECIDED = -1
START = 20.0  # logits begin at -START times what a candidate loses of its weight's square: 4 bits 0.2, 2 bits 4


@dataclass(frozen=True)
class Candidates:
    """One weight behind its candidates; `network` is the parameter that the network computes with."""

    site: Weight
    network: nn.Parameter
    latent: nn.Parameter
    log_scales: nn.Parameter  # (K, channels, 1, ...)


class MixedWeights:
    """All quantizable weights of a network, and what decides their widths; they start as the network's own.

    fitted: whether scales and logits start as they should, or are to be read from a checkpoint.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        sites: Sequence[Weight],
        widths: Sequence[int],
        target: float,
        fitted: bool = True,
    ) -> None:
        self.sites, self.widths, self.target = list(sites), list(widths), target
        self.layers = [self._candidates(network.get_parameter(s.parameter), s, fitted) for s in sites]
        self.sizes = [layer.latent.numel() for layer in self.layers]
        errors = [relative_errors(c.latent.detach(), c.log_scales.detach().exp(), widths) for c in self.layers]
        # On the network's device: one fused optimiser must not wait for two. All else about it is computed on the CPU.
        self.logits = nn.Parameter(-START * torch.stack(errors))
        self.choice: list[int] | None = None  # of each layer's width, once it is settled
        self.price = 0.0  # of a bit, at the last time that probabilities were asked for
        self.relative = torch.tensor(self.sizes) * len(self.sizes) / sum(self.sizes)

    def _candidates(self, parameter: nn.Parameter, site: Weight, fitted: bool) -> Candidates:
        scales = initial_scales(parameter.detach(), self.widths, site.channel_dims, "mse" if fitted else "minmax")
        latent = nn.Parameter(parameter.detach().clone())
        return Candidates(site, parameter, latent, nn.Parameter(scales.log()))

    def probabilities(self, tau: float, noise: Tensor | None = None) -> Tensor:
        """(layers, K): one-hot once the widths are settled."""
        if self.choice is not None:
            return self.one_hot(self.choice)
        logits, self.price = priced(self.logits.cpu(), self.relative, self.widths, self.target, tau)
        return relaxed(logits, tau, noise)

    def one_hot(self, choice: Sequence[int]) -> Tensor:
        return torch.eye(len(self.widths))[list(choice)]

    @torch.no_grad()
    def put(self, probabilities: Tensor) -> None:
        """Write the mixtures of all widths into the network's weights."""
        for layer, row in zip(self.layers, probabilities, strict=True):
            layer.network.copy_(mixture(layer.latent, layer.log_scales.exp(), row, self.widths))

    def pull(self, probabilities: Tensor) -> None:
        """The gradients of the network's parameters become those of weights, scales and `probabilities`."""
        known = probabilities.detach().tolist()
        rows = probabilities.to(self.layers[0].latent.device)
        for layer, row, values in zip(self.layers, rows, known, strict=True):
            mixed = mixture(layer.latent, layer.log_scales.exp(), row, self.widths, values)
            torch.autograd.backward(mixed, layer.network.grad, retain_graph=True)  # `rows` is shared
            layer.network.grad = None

    @torch.no_grad()
    def probable(self, tau: float) -> Tensor:
        """(layers, K): how probable each width is without noise, whether or not one is settled."""
        return relaxed(priced(self.logits.cpu(), self.relative, self.widths, self.target, tau)[0], tau)

    def settled(self) -> list[int]:
        """The width's index for each layer: of all choices that meet the target, that of the greatest logits."""
        return self.choice or feasible(-self.logits.detach().cpu().numpy(), self)

    def bits(self, choice: Sequence[int]) -> list[int]:
        return [self.widths[k] for k in choice]

    @torch.no_grad()
    def drawn_bits(self, probabilities: Tensor) -> float:
        """Mean width in bits under these probabilities."""
        return float((self.relative * (probabilities @ torch.tensor(self.widths, dtype=torch.float32))).mean())

    def mean_bits(self, choice: Sequence[int]) -> float:
        return mean_bits(choice, self.sizes, self.widths)

    @torch.no_grad()
    def quantized(self, choice: Sequence[int]) -> dict[str, QuantizedWeight]:
        """Codes and grids by parameter name; what `put` computes with, bit for bit."""
        found = {}
        for layer, k in zip(self.layers, choice, strict=True):
            grid = symmetric_qparams(layer.log_scales.exp()[k].clone(), self.widths[k])
            codes = quantize(layer.latent, grid).to(storage_dtype(grid))
            found[layer.site.parameter] = QuantizedWeight(codes, grid)
        return found


def feasible(costs: np.ndarray, weights: MixedWeights) -> list[int]:
    """The cheapest choice that meets the target. `check_target` has seen that there is one."""
    choice = allocate(costs, weights.sizes, weights.widths, weights.target)
    assert choice is not None, "no choice of widths meets the target"
    return choice


class MixedLearner(Learner):
    """A network whose weights pass through learned grids, beside the float one that it was."""

    config: MixedPrecisionConfig

    def __init__(
        self,
        pair: TrainingPair,
        weights: MixedWeights,
        config: MixedPrecisionConfig,
        autocast: torch.dtype,
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        self.mixed = weights
        self.search_steps = search_steps(config)
        super().__init__(pair, config, autocast, seed, processes)

    def _trained(self) -> dict[str, nn.Parameter]:
        behind = {id(layer.network) for layer in self.mixed.layers}
        found = {n: p for n, p in self.pair.student.named_parameters() if p.requires_grad and id(p) not in behind}
        found |= {layer.site.parameter: layer.latent for layer in self.mixed.layers}
        found |= {layer.site.parameter + SCALES: layer.log_scales for layer in self.mixed.layers}
        return found | ({LOGITS: self.mixed.logits} if self.search_steps else {})

    def _groups(self) -> list[dict[str, Any]]:
        scales = [p for n, p in self.trained.items() if n.endswith(SCALES)]
        others = [p for n, p in self.trained.items() if not n.endswith(SCALES) and n != LOGITS]
        config = self.config
        groups = [
            {"params": others, "factor": 1.0, "weight_decay": config.weight_decay},
            {"params": scales, "factor": config.scale_rate / config.learning_rate, "weight_decay": 0.0},
        ]
        if self.search_steps:
            factor = config.bits_rate / config.learning_rate
            groups.append({"params": [self.mixed.logits], "factor": factor, "weight_decay": 0.0})
        return groups

    def _clipped(self) -> list[nn.Parameter]:
        return [p for n, p in self.trained.items() if n != LOGITS]

    def tau(self, number: int) -> float:
        progress = number / max(1, self.search_steps - 1)
        return temperature(progress, self.config.gumbel_first, self.config.gumbel_last)

    def _before(self, number: int) -> None:
        if self.mixed.choice is None and number >= self.search_steps:
            self.mixed.choice = self.mixed.settled()
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) * 7 + 5)
        self.noise = gumbel_noise(self.mixed.logits.shape, generator)
        with torch.no_grad():
            self.mixed.put(self.mixed.probabilities(self.tau(number), self.noise))

    def _after_backward(self, number: int) -> dict[str, float]:
        mixed = self.mixed
        if mixed.choice is not None:
            mixed.pull(mixed.probabilities(1.0))
            return {"mean_bits": mixed.mean_bits(mixed.choice)}
        tau = self.tau(number)
        drawn = mixed.probabilities(tau, self.noise)
        leaf = drawn.detach().requires_grad_()
        mixed.pull(leaf)
        drawn.backward(leaf.grad)
        return {"mean_bits": mixed.drawn_bits(leaf), "gumbel_temperature": tau, "bit_price": mixed.price}

    def may_be_result(self, step: int) -> bool:
        """Whether the widths are settled, so that the network may be the result."""
        return step >= self.search_steps

    def ready(self) -> None:
        """Validations see the quantized network, in the middle of the search too."""
        self.mixed.put(self.mixed.one_hot(self.mixed.settled()))

    def weights(self) -> dict[str, Tensor]:
        behind = {id(layer.network) for layer in self.mixed.layers}
        floats = dict(self.student.named_parameters()) | dict(self.student.named_buffers())
        choice = self.mixed.choice or [UNDECIDED] * len(self.mixed.layers)
        return {
            **{n: t.detach() for n, t in floats.items() if id(t) not in behind},
            **{layer.site.parameter: layer.latent.detach() for layer in self.mixed.layers},
            **{layer.site.parameter + SCALES: layer.log_scales.detach() for layer in self.mixed.layers},
            LOGITS: self.mixed.logits.detach(),
            CHOICE: torch.tensor(choice),
        }

    @torch.no_grad()
    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises ValueError and KeyError for tensors of another network, or other widths."""
        mine = self.weights()
        require_like(tensors, mine)
        choice = tensors[CHOICE].tolist()
        if any(i != UNDECIDED and not 0 <= i < len(self.mixed.widths) for i in choice):
            raise ValueError(f"the widths chosen are none of {self.mixed.widths}")
        for name, tensor in tensors.items():
            if name != CHOICE:
                mine[name].copy_(tensor)
        self.mixed.choice = None if UNDECIDED in choice else choice


def search_steps(config: MixedPrecisionConfig) -> int:
    """Number of steps in which widths are learned; later steps, and all of the baselines', use fixed widths."""
    if config.mode != "one-stage":
        return 0
    tail = config.max_steps // 5 if config.finetune_steps is None else config.finetune_steps
    return config.max_steps - tail
