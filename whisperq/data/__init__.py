"""Utterance lists, audio, log-mel features and batches."""
