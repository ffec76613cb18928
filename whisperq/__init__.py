"""whisperq: Whisper made small and fully INT8, honestly measured."""

__version__ = "0.1.0"
