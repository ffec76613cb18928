"""`python -m whisperq`: what torchrun needs."""

from whisperq.cli import app

if __name__ == "__main__":
    app()
