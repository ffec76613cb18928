"""The program: `whisperq`, and `python -m whisperq`, which torchrun needs."""

from whisperq.stopping import leave_when_told


def main() -> None:
    leave_when_told()  # before the imports, which take their time
    from whisperq.cli.app import app

    app()


if __name__ == "__main__":
    main()
