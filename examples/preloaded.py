"""whisperq for scripts that start it often: one process imports everything once, and forks for each command.

    python preloaded.py serve SOCKET               # prints a line when it is ready
    python preloaded.py call SOCKET ARGUMENTS...   # a command with our folder, environment, outputs and exit code

The commands are the real ones, in processes of their own, one at a time; only their imports are shared.
"""

import json
import os
import socket
import sys
from contextlib import suppress

STOPPED = 75  # the server was, before the command had ended
LARGEST = 1 << 17  # bytes of a call: arguments and environment


def serve(path: str) -> None:
    from importlib import import_module
    from pkgutil import iter_modules

    from whisperq import steps

    for module in iter_modules(steps.__path__):
        import_module(f"whisperq.steps.{module.name}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        message, outputs, _, _ = socket.recv_fds(connection, LARGEST, 2)
        process = os.fork()
        if process == 0:
            perform(json.loads(message), outputs)
        for output in outputs:
            os.close(output)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        with suppress(OSError), connection:  # the caller may have been stopped
            connection.send(json.dumps(code).encode())


def perform(call: dict, outputs: list[int]) -> None:
    from whisperq.cli.app import app

    code: object = 1
    try:
        for number, output in zip((1, 2), outputs, strict=True):
            os.dup2(output, number)
        os.chdir(call["folder"])
        os.environ.clear()
        os.environ.update(call["environment"])
        app(call["arguments"], prog_name="whisperq")
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def call(path: str, arguments: list[str]) -> int:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    message = {"folder": os.getcwd(), "environment": dict(os.environ), "arguments": arguments}
    answer = b""
    with suppress(ConnectionError, FileNotFoundError):
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(message).encode()], [1, 2])
        answer = connection.recv(LARGEST)
    if not answer:
        print("the process that runs the commands has ended; run the script again", file=sys.stderr)
        return STOPPED
    return json.loads(answer)


if __name__ == "__main__":
    what, path, *rest = sys.argv[1:]
    with suppress(KeyboardInterrupt):
        sys.exit(serve(path) if what == "serve" else call(path, rest))
    sys.exit(130)
