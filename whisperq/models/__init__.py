"""Networks: gates, gated Whisper, which layers to copy, loading, and the sites of a model."""
