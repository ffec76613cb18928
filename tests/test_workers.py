"""Audio decoded by other processes: the same bits, no process left, no waiting for a dead one."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from support.feeding import make_feed, run, same_steps, write_noises

from whisperq.errors import InputError, TrainingError
from whisperq.training.workers import workers

ERRORS = {3: InputError("the third"), 5: ZeroDivisionError("the fifth")}


def work(job: int) -> np.ndarray:
    if job in ERRORS:
        raise ERRORS[job]
    if job == 2:
        warnings.warn("the second", stacklevel=1)
    if job == 7:
        time.sleep(600)
    return np.full(300_000, job)  # more than a pipe holds


def no_child_is_left() -> bool:
    return not multiprocessing.active_children()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_come_in_order(count):
    with workers(np.sqrt, count) as map_:
        assert list(map_(range(50))) == [np.sqrt(i) for i in range(50)]
    assert no_child_is_left()


def test_jobs_and_results_may_be_larger_than_a_pipe():
    jobs = [np.full(300_000, i, np.float32) for i in range(12)]
    with workers(np.negative, 2) as map_:
        assert all(np.array_equal(-job, result) for job, result in zip(jobs, map_(jobs), strict=True))


@pytest.mark.parametrize("count", [0, 2])
def test_warnings_and_errors_come_where_their_result_would(count):
    got = []
    with workers(work, count) as map_, pytest.warns(UserWarning, match="the second"):
        with pytest.raises(InputError, match="^the third$"):
            got.extend(map_(range(5)))
    assert [int(g[0]) for g in got] == [0, 1, 2]
    assert no_child_is_left()


def test_an_error_that_nobody_foresaw_keeps_its_place_in_the_code():
    with workers(work, 1) as map_, pytest.raises(RuntimeError, match="raise ERRORS.job.(.|\n)*the fifth"):
        list(map_([5]))


def test_a_killed_worker_is_an_error():
    with workers(work, 2) as map_:
        results = map_([0, 7, 1])  # the second takes ten minutes
        assert next(results)[0] == 0
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(TrainingError, match="ended with code -9"):
            list(results)
    assert no_child_is_left()


def test_workers_leave_a_clusters_signals_to_the_one_who_saves():
    with workers(work, 2) as map_:
        assert next(map_([0]))[0] == 0
        for child in multiprocessing.active_children():
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                os.kill(child.pid, number)
        assert [int(r[0]) for r in map_([0, 1, 4])] == [0, 1, 4]
    assert no_child_is_left()


def test_any_number_of_workers_gives_equal_bits(tmp_path):
    path = write_noises(tmp_path, 20)
    settings = {"pack": True, "timestamp_prob": 0.5, "spec_augment": True, "micro_batch": 2}
    steps = [run(make_feed(path, workers=n, **settings), 6) for n in (0, 1, 3)]
    assert same_steps(steps[0], steps[1]) and same_steps(steps[0], steps[2])
    assert no_child_is_left()


def test_a_worker_killed_in_training_ends_it(tmp_path):
    steps = make_feed(write_noises(tmp_path, 20), workers=2).steps(None, 1000, 0, 1)
    next(steps)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(TrainingError, match="a process that decodes audio ended"):
        list(steps)
    assert no_child_is_left()


def test_steps_left_early_leave_no_process(tmp_path):
    steps = make_feed(write_noises(tmp_path, 20), workers=2).steps(None, 1000, 0, 1)
    next(steps)
    assert len(multiprocessing.active_children()) == 2
    steps.close()
    assert no_child_is_left()


ABANDONED = """
import multiprocessing, sys
from support.feeding import make_feed
steps = make_feed(sys.argv[1], workers=2).steps(None, 10_000, 0, 1)
next(steps)
print(*(c.pid for c in multiprocessing.active_children()), flush=True)
if sys.argv[2] == "raise":
    raise SystemExit(7)  # with the steps still open
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how, code", [("raise", 7), ("die", -signal.SIGKILL)])
def test_workers_end_with_the_process_that_asked_them(tmp_path, how, code):
    path = write_noises(tmp_path, 20)
    command = [sys.executable, "-c", ABANDONED, str(path), how]
    places = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": places}, stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == code
    children = [int(pid) for pid in done.stdout.split()]
    assert len(children) == 2
    for _ in range(200):
        if not any(map(alive, children)):
            return
        time.sleep(0.05)
    pytest.fail("workers outlived the process that asked them")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
