"""As a pytest plugin: products that whisperq's kernels leave to others are PyTorch's own, which no CPU saturates."""

import torch

torch.backends.mkldnn.is_available = lambda: False
