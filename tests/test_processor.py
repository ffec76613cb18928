"""What is taken for granted of processors that are not here."""

import platform

import pytest
import torch

from whisperq.native import processor

CASES = {
    "AVX512-VNNI": ("x86_64", True, {}, True, False),
    "AVX-VNNI without AVX512": ("x86_64", False, {"avx_vnni": True}, True, False),
    "AVX2 alone": ("AMD64", False, {"avx_vnni": False}, False, True),
    "ARM": ("aarch64", False, {"neon": True}, False, False),
}


@pytest.mark.parametrize("machine, avx512, others, vnni, saturates", CASES.values(), ids=CASES)
def test_who_adds_up_in_how_many_bits(machine, avx512, others, vnni, saturates, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: others)
    assert (processor.has_vnni(), processor.saturates()) == (vnni, saturates)
