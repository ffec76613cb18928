"""Whisper with gated attention, in one file that needs torch and transformers alone.

A copy of this file travels beside the weights of every gated model, so that
`AutoModelForSpeechSeq2Seq` and `pipeline` rebuild it without whisperq.

    gated_att(x) = sigmoid(G(x)) / pi_init  *  softmax(Q(x) K(x)^T / sqrt(d)) V(x)

(arXiv 2406.11022, equation 4; the factor 1/pi_init from arXiv 2306.12929, appendix B.6.)
x: (batch, length, d_model), the block's own normed input, query side in cross-attention.
G's weights start at zero and its bias at logit(pi_init): the gate starts at one, so a
student starts exactly as the layers that it was copied from.

`scores`, `probs`, `attn_sum`, `cross_sum` and `mlp_sum` are identities that name tensors
inside a block: a forward hook there observes or replaces them. They cost nothing. A hook with the attribute
`in_parts` set takes scores and probs head by head, so that they stay in the processor's cache.
"""

import math

import torch
from torch import Tensor, nn
from transformers import AutomaticSpeechRecognitionPipeline, WhisperConfig, WhisperForConditionalGeneration
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.whisper.modeling_whisper import (
    WhisperAttention,
    WhisperDecoder,
    WhisperDecoderLayer,
    WhisperEncoder,
    WhisperEncoderLayer,
)

GATES = ("headwise", "shared", "per-head", "mlp", "elementwise", "none")
PART = 2**21  # scores computed at once where they may come in parts: 8 MiB of float32


class GatedWhisperConfig(WhisperConfig):
    """Whisper's configuration and the gate's: `gate` (one of GATES), `gate_init` (pi_init), `cross_gate`."""

    model_type = "gated_whisper"
    gate: str = "headwise"
    gate_init: float = 0.5
    cross_gate: bool = True


class HeadLinear(nn.Module):
    """One linear map for each head: (..., heads, d_in) -> (..., heads, d_out); weight (heads, d_out, d_in)."""

    def __init__(self, heads: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, d_out, d_in))
        self.bias = nn.Parameter(torch.empty(heads, d_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...hd,hod->...ho", x, self.weight) + self.bias


class Gate(nn.Module):
    """sigmoid(G(x)) / pi_init: (batch, length, d_model) -> (batch, length, heads, 1 or d_head)."""

    def __init__(self, kind: str, d_model: int, heads: int, pi_init: float) -> None:
        super().__init__()
        d_head = d_model // heads
        self.heads, self.pi_init = heads, pi_init
        self.by_head = kind in ("shared", "per-head", "mlp")
        if kind == "headwise":
            self.linear = nn.Linear(d_model, heads)
        elif kind == "elementwise":
            self.linear = nn.Linear(d_model, d_model)
        elif kind == "shared":
            self.linear = nn.Linear(d_head, d_head)
        elif kind == "per-head":
            self.linear = HeadLinear(heads, d_head, 1)
        elif kind == "mlp":
            self.hidden = HeadLinear(heads, d_head, max(1, d_head // 4))
            self.linear = HeadLinear(heads, max(1, d_head // 4), 1)
        else:
            raise ValueError(f"unknown gate {kind!r}; known: {', '.join(GATES)}")
        self.linear.pi_init = pi_init  # marks the layer that is initialised open

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        if self.by_head:
            x = x.view(batch, length, self.heads, -1)
        if hasattr(self, "hidden"):
            x = torch.relu(self.hidden(x))
        return (torch.sigmoid(self.linear(x)) / self.pi_init).view(batch, length, self.heads, -1)


class GatedWhisperAttention(WhisperAttention):
    """Attention whose heads are gated before the output projection."""

    def __init__(self, config: GatedWhisperConfig, heads: int, gated: bool, **kwargs) -> None:
        super().__init__(config.d_model, heads, dropout=config.attention_dropout, config=config, **kwargs)
        kind = config.gate if gated else "none"
        self.gate = None if kind == "none" else Gate(kind, config.d_model, heads, config.gate_init)
        self.scores = nn.Identity()
        self.probs = nn.Identity()

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values=None,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states (batch, length, d_model), the queries' side -> the same shape, and the probabilities."""
        batch, length, _ = hidden_states.shape
        query = self._split(self.q_proj(hidden_states) * self.scaling, batch)
        key, value = self._keys_and_values(hidden_states, key_value_states, past_key_values)
        context, probs = self._attention_function()(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=1.0,
            output_attentions=output_attentions,
            **kwargs,
        )
        if self.gate is not None:
            context = self.gate(hidden_states) * context
        return self.out_proj(context.reshape(batch, length, -1)), probs

    def _split(self, x: Tensor, batch: int) -> Tensor:
        """(batch, length, d_model) -> (batch, heads, length, d_head)."""
        return x.view(batch, -1, self.num_heads, self.head_dim).transpose(1, 2).contiguous()

    def _keys_and_values(self, hidden_states: Tensor, key_value_states: Tensor | None, cache) -> tuple[Tensor, Tensor]:
        """Keys and values, (batch, heads, length, d_head); cross-attention computes its own once per recording."""
        cross = key_value_states is not None
        computed = False
        if hasattr(cache, "is_updated"):  # an EncoderDecoderCache holds one cache for each kind of attention
            computed = cross and cache.is_updated.get(self.layer_idx, False)
            if cross:
                cache.is_updated[self.layer_idx] = True
            cache = cache.cross_attention_cache if cross else cache.self_attention_cache
        if computed:
            return cache.layers[self.layer_idx].keys, cache.layers[self.layer_idx].values
        source = key_value_states if cross else hidden_states
        batch = hidden_states.shape[0]
        key, value = self._split(self.k_proj(source), batch), self._split(self.v_proj(source), batch)
        return (key, value) if cache is None else cache.update(key, value, self.layer_idx)

    def _attention_function(self):
        """The configured kernel, or the explicit form where somebody looks at its inner tensors."""
        watched = self.scores._forward_hooks or self.probs._forward_hooks
        if watched or self.config._attn_implementation == "eager":
            return explicit_attention
        return ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]


def explicit_attention(
    module: GatedWhisperAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float = 1.0,
    **kwargs,
) -> tuple[Tensor, Tensor | None]:
    """softmax(Q K^T) V with its inner tensors named; works with the mask of any kernel.

    query, key, value (batch, heads, length, d_head) -> context (batch, length, heads, d_head),
    probabilities (batch, heads, query length, key length), or None where they came in parts.
    """
    if attention_mask is None and module.is_causal and query.shape[2] > 1:
        # Fused kernels are told "causal" instead of given a mask.
        rows, columns = query.shape[2], key.shape[2]
        attention_mask = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(columns - rows)
    large = query.shape[:3].numel() * key.shape[2] > PART and query.device.type == "cpu"  # a GPU wants large products
    if large and attention_mask is None and _in_parts(module):
        return _attention_in_parts(module, query, key, value, scaling), None
    scores = torch.matmul(query, key.transpose(2, 3))
    scores = module.scores(scores if scaling == 1.0 else scores * scaling)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    probs = module.probs(torch.softmax(scores, dim=-1))
    probs = nn.functional.dropout(probs, p=dropout, training=module.training)
    return torch.matmul(probs, value).transpose(1, 2), probs


def _in_parts(module: GatedWhisperAttention) -> bool:
    """Whether nobody needs the scores and probabilities of the whole batch at once."""
    hooks = [*module.scores._forward_hooks.values(), *module.probs._forward_hooks.values()]
    alone = not (module.training or torch.is_grad_enabled() or module.config._attn_implementation == "eager")
    return alone and all(getattr(hook, "in_parts", False) for hook in hooks)


def _attention_in_parts(
    module: GatedWhisperAttention, query: Tensor, key: Tensor, value: Tensor, scaling: float
) -> Tensor:
    """Attention without a mask, a few heads at a time, so that the scores of all heads never exist at once.

    Shapes as in `explicit_attention`; scores and probs are (1, heads, query length, key length).
    """
    context = query.new_empty(query.shape)  # contiguous, so that its parts are views
    count = max(1, PART // (query.shape[2] * key.shape[2]))
    rows = (x.flatten(0, 1).split(count) for x in (query, key, value, context))
    for q, k, v, result in zip(*rows, strict=True):
        scores = torch.bmm(q, k.transpose(1, 2))
        scores = module.scores((scores if scaling == 1.0 else scores.mul_(scaling))[None])
        torch.bmm(module.probs(torch.softmax(scores, dim=-1))[0], v, out=result)
    return context.transpose(1, 2)


class GatedWhisperEncoderLayer(WhisperEncoderLayer):
    """Pre-norm self-attention and feed-forward block; hidden states (batch, frames, d_model) in and out."""

    def __init__(self, config: GatedWhisperConfig) -> None:
        super().__init__(config)
        self.self_attn = GatedWhisperAttention(config, config.encoder_attention_heads, gated=True)
        self.attn_sum = nn.Identity()
        self.mlp_sum = nn.Identity()

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs) -> Tensor:
        attended, _ = self.self_attn(self.self_attn_layer_norm(hidden_states), attention_mask=attention_mask, **kwargs)
        hidden_states = self.attn_sum(hidden_states + self._drop(attended))
        hidden_states = self.mlp_sum(hidden_states + feed_forward(self, self.final_layer_norm(hidden_states)))
        if hidden_states.dtype == torch.float16:  # as stock Whisper: its encoder overflows half precision
            limit = torch.finfo(torch.float16).max - 1000
            hidden_states = hidden_states.clamp(-limit, limit)
        return hidden_states

    def _drop(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, p=self.dropout, training=self.training)


class GatedWhisperDecoderLayer(WhisperDecoderLayer):
    """Self-attention, cross-attention and feed-forward block; hidden states (batch, tokens, d_model) in and out."""

    def __init__(self, config: GatedWhisperConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        heads = config.decoder_attention_heads
        self.self_attn = GatedWhisperAttention(
            config, heads, gated=True, is_decoder=True, is_causal=True, layer_idx=layer_idx
        )
        self.encoder_attn = GatedWhisperAttention(
            config, heads, gated=config.cross_gate, is_decoder=True, layer_idx=layer_idx
        )
        self.attn_sum = nn.Identity()
        self.cross_sum = nn.Identity()
        self.mlp_sum = nn.Identity()

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values=None,
        use_cache: bool | None = True,
        **kwargs,
    ) -> Tensor:
        attended, _ = self.self_attn(
            self.self_attn_layer_norm(hidden_states),
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            **kwargs,
        )
        hidden_states = self.attn_sum(hidden_states + self._drop(attended))
        if encoder_hidden_states is not None:
            attended, _ = self.encoder_attn(
                self.encoder_attn_layer_norm(hidden_states),
                key_value_states=encoder_hidden_states,
                attention_mask=encoder_attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
            hidden_states = self.cross_sum(hidden_states + self._drop(attended))
        return self.mlp_sum(hidden_states + feed_forward(self, self.final_layer_norm(hidden_states)))

    _drop = GatedWhisperEncoderLayer._drop


def feed_forward(layer: nn.Module, x: Tensor) -> Tensor:
    """fc2(gelu(fc1(x))) with the layer's dropouts; (batch, length, d_model) in and out."""
    hidden = layer.activation_fn(layer.fc1(x))
    hidden = nn.functional.dropout(hidden, p=layer.activation_dropout, training=layer.training)
    return nn.functional.dropout(layer.fc2(hidden), p=layer.dropout, training=layer.training)


class GateInitialization:
    """Mixed into every model that holds gates: transformers initialises each sub-model through its own method.

    Here and nowhere else: `from_pretrained` gives whatever a checkpoint lacks to `_init_weights`.
    """

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        pi_init = getattr(module, "pi_init", None)
        if pi_init is not None and not isinstance(module, Gate):
            # sigmoid(bias) / pi_init = 1 for every input, and the gradient is not zero.
            init.zeros_(module.weight)
            init.constant_(module.bias, math.log(pi_init / (1 - pi_init)))
        elif isinstance(module, HeadLinear):
            init.normal_(module.weight, std=self.config.init_std)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class GatedWhisperEncoder(GateInitialization, WhisperEncoder):
    def __init__(self, config: GatedWhisperConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(GatedWhisperEncoderLayer(config) for _ in range(config.encoder_layers))
        self.post_init()


class GatedWhisperDecoder(GateInitialization, WhisperDecoder):
    def __init__(self, config: GatedWhisperConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(GatedWhisperDecoderLayer(config, i) for i in range(config.decoder_layers))
        self.post_init()


class GatedWhisperForConditionalGeneration(GateInitialization, WhisperForConditionalGeneration):
    """Whisper for speech recognition whose attention blocks carry gates; stock Whisper with gate "none"."""

    config: GatedWhisperConfig

    def __init__(self, config: GatedWhisperConfig) -> None:
        super().__init__(config)
        self.model.encoder = GatedWhisperEncoder(config)
        self.model.decoder = GatedWhisperDecoder(config)
        self.post_init()

    def _prepare_decoder_input_ids_for_generation(self, *args, **kwargs):
        # Stock code leaves a prompt alone for model_type "whisper" only; elsewhere it prepends a start token.
        model_kwargs = kwargs.get("model_kwargs") or next(a for a in args if isinstance(a, dict))
        prompt = model_kwargs.get("decoder_input_ids")
        ids, model_kwargs = super()._prepare_decoder_input_ids_for_generation(*args, **kwargs)
        if prompt is not None and ids.shape[1] > prompt.shape[1]:
            ids = ids[:, -prompt.shape[1] :]
            if "decoder_attention_mask" in model_kwargs:
                mask = model_kwargs["decoder_attention_mask"]
                model_kwargs["decoder_attention_mask"] = mask[:, -prompt.shape[1] :]
        return ids, model_kwargs


class GatedWhisperPipeline(AutomaticSpeechRecognitionPipeline):
    """The stock speech recognition pipeline, told that this model is a Whisper (by type name it would take CTC)."""

    type = property(lambda self: "seq2seq_whisper", lambda self, value: None)
