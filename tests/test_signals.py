"""Signals to stop, from the first import on: 75 and a line, 130 for a Ctrl-C, and nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import run_command
from support.processes import Job

from whisperq.runtime.pytorch import PyTorchRuntime
from whisperq.stopping import STOPPING, leave_when_told, raised


def listening(process: subprocess.Popen, number: int) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return bool(caught >> (number - 1) & 1)


# How long after the handlers are there: while the command line is imported, while torch is, and at work.
EARLY = [(n, 0.02) for n in STOPPING] + [(signal.SIGUSR2, 0.8), (signal.SIGINT, 1.6), (signal.SIGHUP, 2.4)]


@pytest.mark.slow
@pytest.mark.parametrize("number, seconds", EARLY)
def test_a_signal_in_the_first_seconds(number, seconds, workspace, finished_run):
    command = [sys.executable, "-m", "whisperq", "distill", "--run", str(finished_run), "--out", "made", "--force"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not listening(process, signal.SIGUSR2):
            assert process.poll() is None and time.monotonic() < deadline
        time.sleep(seconds)
        process.send_signal(number)
        said = process.communicate()[1]
    assert process.returncode == (130 if number == signal.SIGINT else 75), said
    last = said.splitlines()[-1]
    assert last.startswith("whisperq: ") and "Traceback" not in said
    assert "interrupted" in last if number == signal.SIGINT else signal.Signals(number).name in last, said
    assert not Path("made").exists() and not list(Path().glob(".made*"))


@pytest.mark.parametrize("number", STOPPING)
def test_handlers_are_there_before_the_command_line_is_imported(number):
    """In the place of its import, which takes seconds, comes the signal."""
    script = (
        "import os, sys, types\n"
        f"sys.modules['whisperq.cli.app'] = types.SimpleNamespace(app=lambda: os.kill(os.getpid(), {int(number)}))\n"
        "from whisperq.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == (130 if number == signal.SIGINT else 75), done
    assert done.stderr.startswith("whisperq: ") and done.stderr.count("\n") == 1


def test_nohup_stays_deaf_to_hup_and_a_fork_dies_as_it_would():
    script = (
        "import os, signal\n"
        "from whisperq.stopping import leave_when_told\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "leave_when_told()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "child = os.fork()\n"
        "os.kill(os.getpid(), signal.SIGTERM) if not child else print(os.waitpid(child, 0)[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{int(signal.SIGTERM)}\n"), done.stderr


def test_who_imports_whisperq_keeps_its_own_handlers(invoke, workspace):
    before = {number: signal.getsignal(number) for number in STOPPING}
    assert invoke("init-student").exit_code == 0 and invoke("quantize", "--bits", "x").exit_code == 2
    assert {number: signal.getsignal(number) for number in STOPPING} == before


def test_only_the_first_is_raised_but_a_ctrl_c_always():
    with raised() as received:
        with pytest.raises(KeyboardInterrupt, match="told to stop \\(SIGTERM\\)"):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert received == [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT] and callable(leave_when_told)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["quantize", "transcribe"])
def test_a_signal_that_a_library_swallowed_still_stops(name, number, copied_run, invoke, monkeypatch):
    """As Python does it in every `__del__`: libraries have many while they are imported."""
    done = []

    def imported(_: str) -> SimpleNamespace:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        return SimpleNamespace(**{name: lambda **_: done.append(name) or ""})

    monkeypatch.setattr("whisperq.cli.commands.import_module", imported)
    words = ("talk.wav", "--model", "gemm-w8a8") if name == "transcribe" else ()
    result = invoke(name, *words)
    assert result.exit_code == (130 if number == signal.SIGINT else 75) and not done, result.output


COMMANDS = {
    "outliers": "outliers --model distilled",
    "calibrate": "calibrate",
    "sensitivity": "sensitivity --model gemm-w8a8",
    "quantize": "quantize",
    "export": "export --model gemm-w8a8",
    "plot-attention": "plot-attention --layer dec.0",
    "robustness": "robustness --model gemm-w8a8 --limit 1",
    "init-student": "init-student",
}
KEPT = {
    "distill": ("distill --max-steps 400 --save-every 1000", "made-checkpoints"),
    "eval": ("eval --model student --batch-size 1", "made-partial"),
}


@pytest.mark.parametrize("name, number", [(n, list(STOPPING)[i % 5]) for i, n in enumerate(COMMANDS)])
def test_a_signal_in_the_middle_leaves_nothing_and_asks_to_be_run_again(name, number, copied_run):
    folder = copied_run.parent
    job = Job(folder, *COMMANDS[name].split(), "--out", "made")
    job.until(lambda: list(folder.glob(".made.partial-*")))
    job.signal(signal.SIGSTOP)  # so that no work is quicker than we
    job.signal(number)
    job.signal(signal.SIGCONT)
    assert job.exit_code() == (130 if number == signal.SIGINT else 75), job.said
    assert "no half-written artifact is left" in job.said and "Traceback" not in job.said
    assert not list(folder.glob(".made*")) and not (folder / "made").exists()


@pytest.mark.parametrize("name", KEPT)
def test_hup_is_term(name, copied_run):
    command, place = KEPT[name]
    job = Job(copied_run.parent, *command.split(), "--out", "made")
    job.until(lambda: list((copied_run.parent / place).glob("*")))
    job.signal(signal.SIGHUP)
    assert job.exit_code() == 75 and "told to stop" in job.said, job.said


GOES_ON = """
import os, sys, typer
from whisperq.cli.failing import reported
from whisperq.errors import Interrupted
from whisperq.jobs.progress import say, stepping
from whisperq.jobs.signals import stop_requested
try:
    with reported(), stop_requested() as stopping, stepping("distill", 3, 0) as advance:
        say("listen")
        sys.stdin.read()
        for number in map(int, sys.argv[1:]):
            os.kill(os.getpid(), number)
        for step in range(3):
            say(f"step {step}: validation WER")
            advance("loss 1")
        open("saved", "w").close()
        if stopping():
            raise Interrupted("step 3 is saved")
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


@pytest.mark.parametrize("numbers", [[], [signal.SIGINT], [signal.SIGHUP], [signal.SIGTERM, signal.SIGTERM]])
@pytest.mark.parametrize("opened", [os.pipe, os.openpty], ids=["pipe", "terminal"])
def test_who_is_not_heard_any_more_saves_all_the_same(opened, numbers, tmp_path):
    """A Ctrl-C ends `2>&1 | tee log` too, and a terminal that closes is gone when HUP comes."""
    reader, writer = opened()
    command = [sys.executable, "-c", GOES_ON, *(str(int(n)) for n in numbers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=writer, cwd=tmp_path) as process:
        os.close(writer)
        said = b""
        while b"listen" not in said:
            said += os.read(reader, 1000)
        os.close(reader)
        process.stdin.close()
        assert process.wait(60) == (75 if numbers else 0)
    assert (tmp_path / "saved").exists()


@pytest.mark.slow
def test_a_training_whose_terminal_closes_saves_its_step(copied_run):
    reader, writer = os.openpty()
    steps = ("--max-steps", "4000", "--save-every", "4000", "--eval-every", "4000")
    command = [sys.executable, "-m", "whisperq", "distill", *steps, "--out", "made"]
    log = copied_run.parent / "made-checkpoints" / "metrics.jsonl"
    with subprocess.Popen(command, stdout=writer, stderr=writer) as process:
        os.close(writer)
        deadline = time.monotonic() + 60
        while not log.exists() or '"step": 1' not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.close(reader)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 75
    assert list(log.parent.glob("step-*/COMPLETE"))


@pytest.mark.parametrize("owed", [False, True], ids=["in its step", "made up for"])
def test_a_validation_hears_a_signal_in_the_middle_of_a_batch(owed, workspace, monkeypatch):
    """A batch of 32 windows takes minutes on a CPU, longer than a cluster waits before it kills."""
    assert run_command("init-student").exit_code == 0
    steps, log = ("distill", "--max-steps", "2", "--eval-every", "2"), Path("run", "distilled", "metrics.jsonl")
    if owed:
        assert run_command(*steps, "--max-time", "0:00").exit_code == 75
        assert run_command(*steps, "--max-time", "0:00").exit_code == 75
    decoded: list[bool] = []
    encode, decode_step = PyTorchRuntime.encode, PyTorchRuntime.decode_step

    def told(self, features):
        os.kill(os.getpid(), signal.SIGTERM)
        return encode(self, features)

    def counted(self, *arguments):
        decoded.append(True)
        return decode_step(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PyTorchRuntime, "encode", told)
        patched.setattr(PyTorchRuntime, "decode_step", counted)
        stopped = run_command(*steps)
    assert stopped.exit_code == 75 and not decoded and "validation WER" not in stopped.stderr, stopped.stderr
    assert f"step 2 {'was saved before' if owed else 'is saved'}" in stopped.stderr
    done = run_command(*steps)
    assert done.exit_code == 0 and done.stderr.count("step 2: validation WER") == 1, done.stderr
    assert log.read_text().count("validation_wer") == 1
