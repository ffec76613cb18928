"""Which sites get channels of 16 bits, where heads' gates alone read one."""

import pytest
import torch
from support.tiny import gated_model

from whisperq.ptq.plan import make_plan
from whisperq.ptq.scaling import Findings, site_readers, widen
from whisperq.quant.grid import fake_quantize, weight_qparams
from whisperq.quant.scale_search import Observed
from whisperq.quant.wide import ActivationRange

MASSIVE = 100.0


def observed(width: int, seed: int) -> Observed:
    """Rows whose first channel is massive, and their ends."""
    rows = torch.randn(16, width, generator=torch.Generator().manual_seed(seed))
    rows[:, 0] *= MASSIVE
    return Observed(rows.amin(dim=0)[None], rows.amax(dim=0)[None], rows)


@pytest.mark.parametrize("gate", ["shared", "per-head", "mlp"])
def test_a_site_that_only_gates_by_head_read_is_left_alone(gate):
    model = gated_model(gate)
    alone, both = "enc.0.attn_norm", "enc.1.attn_norm"
    plan = make_plan(model, "gemm", exclude=[f"enc.0.{name}_proj:weight" for name in "qkv"])
    assert len(site_readers(model, plan)[alone]) == (2 if gate == "mlp" else 1)
    raw = {site: observed(model.config.d_model, i) for i, site in enumerate((alone, both))}
    ranges = {site: ActivationRange((float(o.minima.min()), float(o.maxima.max()))) for site, o in raw.items()}
    found = Findings(observed=raw)

    def ends(seen: Observed) -> tuple[float, float]:
        return float(seen.minima.min()), float(seen.maxima.max())

    def quantized(weight: torch.Tensor) -> torch.Tensor:
        return fake_quantize(weight, weight_qparams(weight, 8, symmetric=True, channel_dims=1))

    widen(model, plan, raw, found, ranges, ends, quantized, budget=1.0)
    assert set(found.wide) == {both}
