"""The program: `whisperq`, and `python -m whisperq`, which torchrun needs."""

from whisperq.standard_streams import ready_streams
from whisperq.stopping import leave_when_told


def main() -> None:
    ready_streams()
    leave_when_told()  # before the imports, which take their time
    from whisperq.cli.app import app

    app()


if __name__ == "__main__":
    main()
