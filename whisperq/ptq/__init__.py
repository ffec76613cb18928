"""Post-training quantization: what is quantized, with which ranges and scales, and the quantized model on disk."""
