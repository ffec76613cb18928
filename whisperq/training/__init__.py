"""Losses, optimiser and the distillation loop."""
