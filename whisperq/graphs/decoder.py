"""Whisper's decoder as an ONNX graph: the tied vocabulary, positions and mask, and what a step hands to the next."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from whisperq.graphs.blocks import Attention, KeysAndValues, feed_forward
from whisperq.graphs.graph import Shape
from whisperq.graphs.layers import Layers
from whisperq.graphs.wide import WideWeight, wide_product
from whisperq.models.families import tied_names

TABLE, PROJECTION = "model.decoder.embed_tokens.weight", "proj_out.weight"
LOWEST = float(np.finfo(np.float32).min)

Past = Mapping[str, str]  # "decoder.key", "encoder.value", ... -> a value's name


@dataclass(frozen=True)
class Vocabulary:
    """Names of the token table, floats or codes, and of what proj_out multiplies by; the codes' scale by token."""

    table: str
    projection: str
    scale: np.ndarray | None = None


@dataclass(frozen=True)
class Decoder:
    """The decoder's graph: of a first prompt, or of tokens that follow a past."""

    layers: Layers
    with_past: bool

    @property
    def heads(self) -> int:
        return self.layers.config.decoder_attention_heads

    def write(self) -> None:
        g, c = self.layers.graph, self.layers.config
        tokens = g.input("input_ids", np.int64, ("batch_size", "decoder_sequence_length"))
        if not self.with_past:
            g.input("encoder_hidden_states", np.float32, ("batch_size", c.max_source_positions, c.d_model))
        pasts = [self._past(i) for i in range(c.decoder_layers if self.with_past else 0)]
        positions, mask = self._positions(tokens, pasts[0]["decoder.key"] if pasts else None)
        vocabulary = self._vocabulary()
        x = g.op("Add", self._embedded(tokens, vocabulary), positions, name="dec.positions")
        for i in range(c.decoder_layers):
            x = self._layer(i, x, mask, pasts[i] if pasts else {})
        x = self.layers.norm("model.decoder.layer_norm", x, "dec.norm")
        logits = self._logits(x, vocabulary)
        g.output("logits", logits, np.float32, ("batch_size", "decoder_sequence_length", c.vocab_size))
        g.outputs.sort(key=lambda output: output.name != "logits")  # the layout has them first

    def _layer(self, i: int, x: str, mask: str, past: Past) -> str:
        """Self-attention, cross-attention, feed-forward; (batch, tokens, d_model) in and out."""
        layers, g = self.layers, self.layers.graph
        module, address = f"model.decoder.layers.{i}", f"dec.{i}"
        normed = layers.norm(f"{module}.self_attn_layer_norm", x, f"{address}.attn_norm")
        attended = self._self_attention(i, normed, mask, past)
        x = g.op("Add", x, attended, name=f"{address}.attn_sum")
        normed = layers.norm(f"{module}.encoder_attn_layer_norm", x, f"{address}.cross.attn_norm")
        x = g.op("Add", x, self._cross_attention(i, normed, past), name=f"{address}.cross.attn_sum")
        return feed_forward(layers, module, x, address)

    def _self_attention(self, i: int, x: str, mask: str, past: Past) -> str:
        g, address = self.layers.graph, f"dec.{i}"
        attention = Attention(self.layers, f"model.decoder.layers.{i}.self_attn", address, self.heads)
        known = attention.keys_and_values(x)
        if past:
            keys, values = (
                g.op("Concat", past[f"decoder.{name}"], new, axis=2, name=f"{address}/{name}s")
                for name, new in zip(("key", "value"), known, strict=True)
            )
            known = keys, values
        self._present(f"{i}.decoder", known)
        return attention.run(x, known, mask)

    def _cross_attention(self, i: int, x: str, past: Past) -> str:
        """Cross-attention of layer i; keys and values come from the encoder in the first step, later from the cache."""
        module, gated = f"model.decoder.layers.{i}.encoder_attn", self.layers.config.cross_gate
        attention = Attention(self.layers, module, f"dec.{i}.cross", self.heads, gated)
        if past:
            known = past["encoder.key"], past["encoder.value"]
        else:
            known = attention.keys_and_values("encoder_hidden_states")
            self._present(f"{i}.encoder", known)
        return attention.run(x, known)

    def _past(self, i: int) -> Past:
        kinds = [f"{part}.{name}" for part in ("decoder", "encoder") for name in ("key", "value")]
        return {k: self.layers.graph.input(f"past_key_values.{i}.{k}", np.float32, self._cache(k)) for k in kinds}

    def _present(self, name: str, known: KeysAndValues) -> None:
        for kind, value in zip(("key", "value"), known, strict=True):
            self.layers.graph.output(f"present.{name}.{kind}", value, np.float32, self._cache(name, present=True))

    def _cache(self, name: str, present: bool = False) -> Shape:
        """The shape of keys or values of "encoder" or of "decoder", before or after this step."""
        c = self.layers.config
        before, new = "past_decoder_sequence_length", "decoder_sequence_length"
        length = before if not present else f"{before} + {new}" if self.with_past else new
        if "encoder" in name:
            length = c.max_source_positions
        return ("batch_size", self.heads, length, c.d_model // self.heads)

    def _positions(self, tokens: str, past: str | None) -> tuple[str, str]:
        """Position vectors (tokens, d_model), and the mask (tokens, past + tokens) that hides later tokens."""
        g = self.layers.graph
        zero, one = g.constant("i/zero", np.array(0, np.int64)), g.constant("i/one", np.array(1, np.int64))
        start = zero
        if past:
            start = g.op("Squeeze", g.op("Shape", past, name="dec.past/shape", start=2, end=3), name="dec.past")
        length = g.op("Squeeze", g.op("Shape", tokens, name="dec.tokens/shape", start=1, end=2), name="dec.tokens")
        end = g.op("Add", start, length, name="dec.end")
        keys = g.op("Range", zero, end, one, name="dec.keys")
        queries = g.op("Range", start, end, one, name="dec.queries")
        later = g.op("Greater", keys, g.op("Unsqueeze", queries, g.integers(1), name="dec.rows"), name="dec.later")
        mask = g.op("Where", later, g.scalar(LOWEST), g.scalar(0.0), name="dec.mask")
        table = self.layers.tensor("model.decoder.embed_positions.weight")
        return g.op("Gather", table, queries, name="dec.position"), mask

    def _vocabulary(self) -> Vocabulary:
        """The table, (d_model, vocabulary): tokens pick its columns; tied, proj_out multiplies by it."""
        layers, stored = self.layers, self.layers.stored
        tied = bool(tied_names(layers.config))
        if layers.count("proj_out", PROJECTION):
            quantized = stored.integers(PROJECTION)
            projection = layers.dequantized(PROJECTION, quantized.codes.T, quantized.scale)
            if tied:
                return Vocabulary(PROJECTION, projection, quantized.scale)
            return Vocabulary(layers.float_weight(TABLE), projection)
        table = layers.float_weight(TABLE if TABLE in stored else PROJECTION)
        return Vocabulary(table, table if tied else layers.float_weight(PROJECTION))

    def _logits(self, x: str, vocabulary: Vocabulary) -> str:
        """(batch, tokens, d_model) -> (batch, tokens, vocabulary)."""
        layers = self.layers
        if PROJECTION in layers.stored.weights and layers.is_wide("proj_out"):
            codes = layers.stored.integers(PROJECTION)
            return wide_product(layers, x, "proj_out", WideWeight(PROJECTION, codes.codes.T, codes.scale))
        return layers.product(
            "proj_out", layers.activation(x, "proj_out", weight=vocabulary.projection), vocabulary.projection
        )

    def _embedded(self, tokens: str, vocabulary: Vocabulary) -> str:
        """(batch, tokens) -> (batch, tokens, d_model)."""
        g, scale = self.layers.graph, vocabulary.scale
        columns = g.op("Gather", vocabulary.table, tokens, name="dec.embedding/columns", axis=1)
        rows = g.op("Transpose", columns, perm=(1, 2, 0), name="dec.embedding")
        if scale is None:
            return self._divided(rows)
        name = g.constant(f"{PROJECTION}.rows", scale)  # (vocabulary, 1), or ()
        if scale.ndim:
            name = g.op("Gather", name, tokens, name="dec.embedding/scale")
        rows = g.op("Cast", rows, name="dec.embedding/float", to=TensorProto.FLOAT)
        return self._divided(g.op("Mul", rows, name, name="dec.embedding/dequantize"))

    def _divided(self, rows: str) -> str:
        """Rows of a table whose columns are scaled for the logits."""
        divisor = self.layers.stored.table_divisor
        if divisor is None:
            return rows
        name = self.layers.graph.constant("dec.norm.divisor", divisor.numpy())
        return self.layers.graph.op("Div", rows, name, name="dec.embedding/divided")
