"""What this processor multiplies exactly."""

import platform

import torch


def has_vnni() -> bool:
    """Whether it adds up products of eight bits in 32 bits at once: with AVX512, or with AVX alone as in newer PCs."""
    all_of_it = getattr(torch.cpu, "get_capabilities", None)  # not there in every PyTorch that whisperq runs on
    return bool(torch.cpu._is_vnni_supported() or (all_of_it and all_of_it().get("avx_vnni")))


def saturates() -> bool:
    """Whether libraries add up products of eight bits in 16 bits, which is too few: on x86 without VNNI.

    Of others than x86 nothing is known here.
    """
    return platform.machine() in ("x86_64", "AMD64") and not has_vnni()
