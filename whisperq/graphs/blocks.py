"""Whisper's blocks as ONNX operators: gated attention and the feed-forward part."""

from dataclasses import dataclass

from whisperq.graphs.layers import Layers

KeysAndValues = tuple[str, str]  # each (batch, heads, length, d_head)


@dataclass(frozen=True)
class Attention:
    """One attention block: where its weights are, what it is called, and how many heads it has.

    sigmoid(G(x)) / pi_init * softmax(q k^T / sqrt(d_head)) v, then out_proj; x (batch, length, d_model) normed.
    """

    layers: Layers
    module: str
    address: str
    heads: int
    gated: bool = True

    @property
    def d_head(self) -> int:
        return self.layers.config.hidden_size // self.heads

    def keys_and_values(self, x: str) -> KeysAndValues:
        """Keys and values of x: the block's own input, or in cross-attention the encoder's output."""
        return self._projected("k_proj", x), self._projected("v_proj", x)

    def run(self, x: str, keys_and_values: KeysAndValues, mask: str | None = None) -> str:
        """x (batch, length, d_model) -> the same shape; mask (length, keys) is added to the scores."""
        g, (keys, values) = self.layers.graph, keys_and_values
        # The queries' factor is part of q_proj's scale: where it is a power of two, not a bit changes.
        queries = self._projected("q_proj", x, self.d_head**-0.5)
        turned = g.op("Transpose", keys, perm=(0, 1, 3, 2), name=f"{self.address}.scores/keys")
        scores = self.layers.product(f"{self.address}.scores", queries, turned)
        if mask:
            scores = g.op("Add", scores, mask, name=f"{self.address}.scores/mask")
        probs = g.op("Softmax", scores, name=f"{self.address}.probs", axis=-1)
        context = self.layers.product(f"{self.address}.context", probs, values)
        for product in ("scores", "context"):
            self.layers.products[f"{self.address}.{product}"] = ["attention"]
        context = g.op("Transpose", context, perm=(0, 2, 1, 3), name=f"{self.address}.context/heads")
        if gate := self._gate(x):
            context = g.op("Mul", context, gate, name=f"{self.address}.context/gated")
        merged = (0, 0, self.layers.config.hidden_size)
        context = self.layers.reshaped(context, merged, f"{self.address}.context/merged")
        return self.layers.linear(f"{self.module}.out_proj", context, f"{self.address}.out_proj")

    def _projected(self, name: str, x: str, factor: float = 1.0) -> str:
        """(batch, length, d_model) -> (batch, heads, length, d_head)."""
        address = f"{self.address}.{name}"
        y = self.layers.linear(f"{self.module}.{name}", x, address, factor)
        y = self.layers.reshaped(y, (0, 0, self.heads, self.d_head), f"{address}/split")
        return self.layers.graph.op("Transpose", y, perm=(0, 2, 1, 3), name=f"{address}/heads")

    def _gate(self, x: str) -> str | None:
        """(batch, length, d_model) -> (batch, length, heads, 1 or d_head)."""
        kind, g, address = self.layers.config.gate if self.gated else "none", self.layers.graph, f"{self.address}.gate"
        if kind == "none":
            return None
        y = self._logits(kind, x, address)
        y = g.op("Sigmoid", y, name=f"{address}/sigmoid")
        y = g.op("Mul", y, g.scalar(1 / self.layers.config.gate_init), name=f"{address}/open")
        return y if kind == "shared" else self.layers.reshaped(y, (0, 0, self.heads, -1), f"{address}/split")

    def _logits(self, kind: str, x: str, address: str) -> str:
        """G(x); the maps by head are one block-diagonal map of all heads."""
        layers, module = self.layers, f"{self.module}.gate"
        if kind == "shared":
            return layers.linear(f"{module}.linear", x, address, split=(0, 0, self.heads, self.d_head))
        if kind != "mlp":
            return layers.linear(f"{module}.linear", x, address)
        hidden = layers.linear(f"{module}.hidden", x, address)
        hidden = layers.graph.op("Relu", hidden, name=f"{address}/relu")
        layers.count(address, f"{module}.linear.weight", hidden)  # no site, so that this product is always float
        y = layers.product(address, hidden, layers.float_weight(f"{module}.linear.weight"))
        return layers.biased(y, f"{module}.linear", address)


def feed_forward(layers: Layers, module: str, x: str, address: str) -> str:
    """x + fc2(activation(fc1(norm(x)))); (batch, length, d_model) in and out."""
    y = layers.norm(f"{module}.final_layer_norm", x, f"{address}.mlp_norm")
    y = layers.linear(f"{module}.fc1", y, f"{address}.fc1")
    y = layers.activate(y, f"{address}.fc1", layers.config.activation_function)
    y = layers.linear(f"{module}.fc2", y, f"{address}.fc2")
    return layers.graph.op("Add", x, y, name=f"{address}.mlp_sum")
