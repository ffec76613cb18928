"""One command at a time at one place: the second says who is at work, and a dead one's lock gives way."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.processes import Job

from whisperq import locking
from whisperq.errors import Interrupted
from whisperq.locking import Owner, locked, started

HOLDER = """
import sys, time
from pathlib import Path
from whisperq.locking import locked
with locked(Path(sys.argv[1]), "distill"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path/out."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def lock(folder: Path) -> Path:
    return folder / ".out.lock"


def test_the_second_is_told_who_is_at_work(holder, tmp_path):
    with pytest.raises(Interrupted, match="whisperq distill is at work on .*/out already") as refused:
        with locked(tmp_path / "out", "distill"):
            pytest.fail("both hold it")
    assert f"process {holder.pid} on {socket.gethostname()}, since 20" in str(refused.value)
    assert refused.value.exit_code == 75 and [p.name for p in tmp_path.iterdir()] == [".out.lock"]


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_ones_lock_gives_way_at_once(reaped, holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    if reaped:
        holder.wait()
    else:  # its parent has not looked yet
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    with locked(tmp_path / "out", "eval"):
        assert json.loads(lock(tmp_path).read_text())["command"] == "eval"
    assert not list(tmp_path.iterdir())


def hold(folder: Path, **changes) -> None:
    me = Owner.me("distill")
    content = {"host": me.host, "process": me.process, "started": me.started, "command": "distill", "since": me.since}
    lock(folder).write_text(json.dumps(content | changes))


def test_a_number_that_another_process_has_by_now_is_no_owner(tmp_path):
    hold(tmp_path, started="1")
    with locked(tmp_path / "out", "distill"):
        assert json.loads(lock(tmp_path).read_text())["started"] == started(os.getpid())


def test_a_process_that_the_system_hides_counts_as_living(tmp_path, monkeypatch):
    """As others' do on many a cluster: it answers to its number, and more is not told."""
    hold(tmp_path, process=1, started="7")
    monkeypatch.setattr(locking, "started", lambda process: "")
    with pytest.raises(Interrupted, match="process 1 on"):
        with locked(tmp_path / "out", "distill"):
            pytest.fail("both hold it")


def test_another_hosts_lock_is_a_lock_as_long_as_it_is_touched(tmp_path):
    hold(tmp_path, host="another pid:[1]")
    with pytest.raises(Interrupted, match="at work on"):
        with locked(tmp_path / "out", "distill"):
            pytest.fail("both hold it")
    long_ago = time.time() - locking.PATIENCE - 60
    os.utime(lock(tmp_path), (long_ago, long_ago))
    with locked(tmp_path / "out", "distill"):
        assert json.loads(lock(tmp_path).read_text())["process"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", '{"process": "one"}', "[]"])
def test_a_lock_whose_maker_was_killed_before_it_signed_gives_way_soon(content, tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "WRITING", 0.2)
    lock(tmp_path).write_text(content)
    began = time.monotonic()
    with locked(tmp_path / "out", "distill"):
        assert time.monotonic() - began > 0.15


def test_one_that_signs_late_is_waited_for(tmp_path):
    lock(tmp_path).write_text("")
    threading.Timer(0.3, hold, (tmp_path,)).start()
    with pytest.raises(Interrupted, match="whisperq distill is at work"):
        with locked(tmp_path / "out", "distill"):
            pytest.fail("both hold it")


def test_who_is_at_work_touches_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "BEAT", 0.01)
    with locked(tmp_path / "out", "distill"):
        os.utime(lock(tmp_path), (0, 0))
        deadline = time.monotonic() + 10
        while not lock(tmp_path).stat().st_mtime:
            assert time.monotonic() < deadline, "nobody touches it"
            time.sleep(0.01)


def test_folders_made_for_a_lock_go_with_it_and_nothing_is_locked_where_nothing_can_be_written(tmp_path):
    with locked(tmp_path / "run" / "out", "distill"):
        assert lock(tmp_path / "run").is_file()
    assert not list(tmp_path.iterdir())
    with locked(Path("/proc/whisperq/out"), "distill"):
        assert not Path("/proc/whisperq").exists()


AT_ONCE = {
    "distill": ("run/.distilled.lock", "distill --max-steps 400 --eval-every 400 --out run/distilled --force"),
    "mixed-precision": (
        "run/.mixed.lock", "mixed-precision --mode uniform --target-bits 4 --max-steps 400 --out run/mixed"
    ),
    "eval": ("run/.heard.lock", "eval --model student --batch-size 1 --out run/heard"),
    "eval over its own": ("run/.heard.lock", "eval --model student --batch-size 1 --out run/heard --force"),
    "pseudo-label": ("run/.labels.lock", "pseudo-label --model student --batch-size 1 --out run/labels"),
    "calibrate": (
        "run/.searched.lock",
        "calibrate --observer stablequant --metric snr --batches 1 --batch-size 1 --out run/searched",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("place, command", AT_ONCE.values(), ids=AT_ONCE)
def test_two_at_once(place, command, copied_run, invoke):
    """Real processes: the first is stopped in the middle, goes on after the second was refused, and ends well."""
    if command.startswith("eval") and "--force" in command:
        assert invoke("eval", "--model", "student", "--out", "run/heard").exit_code == 0
    first = Job(copied_run.parent, *command.split())
    first.until(lambda: Path(place).exists() and Path(place).read_text())
    first.signal(signal.SIGSTOP)
    second = Job(copied_run.parent, *command.split(), *([] if "--force" in command else ["--force"]))
    code = second.exit_code()
    first.signal(signal.SIGCONT)
    if command.startswith(("distill", "mixed")):
        first.signal(signal.SIGTERM)
    assert code == 75 and f"whisperq {command.split()[0]} is at work on run/" in second.said, second.said
    assert f"process {first.process.pid} on" in second.said
    assert first.exit_code() == (75 if command.startswith(("distill", "mixed")) else 0), first.said
    assert not Path(place).exists()


@pytest.mark.parametrize("name", [name for name in AT_ONCE if name != "eval over its own"])
def test_what_is_finished_is_said_without_the_lock(name, copied_run, invoke):
    """Many jobs of an array may repeat the same first step: each finds it done, whoever else is looking."""
    command = AT_ONCE[name][1]
    for old, new in {"400": "2", " --force": "", "run/distilled": "run/taught"}.items():
        command = command.replace(old, new)
    out = Path(command.split("--out ")[1])
    assert invoke(*command.split()).exit_code == 0
    with locked(out, command.split()[0]):
        again = invoke(*command.split())
    assert again.exit_code == 0 and "finished already" in again.stdout + again.stderr


def test_two_that_take_the_place_of_a_dead_one_together(copied_run):
    """One gets it, the other is refused, or comes when all is done; both read what the killed one had done."""
    command = "eval --model student --batch-size 1 --out run/heard"
    killed = Job(copied_run.parent, *command.split())
    killed.until(lambda: list(Path("run/heard-partial").glob("*.jsonl")))
    killed.signal(signal.SIGKILL)
    killed.exit_code()
    both = [Job(copied_run.parent, *command.split()) for _ in range(2)]
    codes = sorted(job.exit_code() for job in both)
    assert codes in ([0, 0], [0, 75]), [job.said for job in both]
    assert Path("run/heard/manifest.json").is_file() and not Path("run/heard-partial").exists()
