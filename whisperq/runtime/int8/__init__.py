"""A quantized model run in integers."""
