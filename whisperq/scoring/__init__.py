"""Text normalisers, word errors, confidence intervals and outlier statistics."""
