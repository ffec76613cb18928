"""The micro-batch that --micro-batch auto finds, on a GPU by trying and on a CPU by reckoning, and keeps."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import configuration, run_command, write_configuration
from safetensors.torch import load_file
from support.feeding import make_feed, write_noises
from support.training_batch import batch, make_distiller

from whisperq import artifact
from whisperq.errors import UsageError
from whisperq.jobs.distributed import ALONE
from whisperq.training import micro_batch
from whisperq.training.feed import Feed
from whisperq.training.loop import Distiller, Learner
from whisperq.training.memory import free_memory
from whisperq.training.micro_batch import affordable, fullest, kept_bytes, largest_that_fits, try_out
from whisperq.training.validation import Validation
from whisperq.training_options import DistillConfig

pytestmark = pytest.mark.slow

FITS = [(64, 20, 16), (64, 64, 64), (64, 1000, 64), (48, 100, 16), (12, 3, 2), (7, 5, 1), (1, 1, 1), (8, 0, 0)]


@pytest.fixture
def feed(tmp_path) -> Feed:
    return make_feed(write_noises(tmp_path, 8), batch_size=8, micro_batch="auto")


def full_above(limit: int):
    """A GPU on which no more windows than these fit."""

    def attempt(count: int) -> None:
        if count > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    return attempt


@pytest.mark.parametrize("share, limit, expected", FITS)
def test_the_largest_power_of_two_that_fits_is_found(share, limit, expected):
    assert largest_that_fits(share, full_above(limit)) == expected
    assert affordable(share, 3e9, 2 * 3e9 * limit) == max(1, expected)


def test_other_failures_are_no_answer():
    def attempt(count: int) -> None:
        raise RuntimeError("device-side assert")

    with pytest.raises(RuntimeError, match="assert"):
        largest_that_fits(4, attempt)


def with_limit(distiller: Distiller, limit: int) -> list[int]:
    """Forward and backward passes of more windows fail half-way; returns the list of those that were begun."""
    usual, begun = distiller.accumulate, []

    def accumulate(data, tokens, last):
        begun.append(len(data.features))
        found = usual(data, tokens, last)
        if len(data.features) > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return found

    distiller.accumulate = accumulate
    return begun


def test_trying_changes_nothing(feed):
    tried, plain = make_distiller(dropout=0.1), make_distiller(dropout=0.1)
    begun = with_limit(tried, 2)
    assert largest_that_fits(8, lambda count: try_out(tried, fullest(feed.loader, count))) == 2 and begun == [1, 2, 4]
    assert not tried.optimizer.state and all(p.grad is None for p in tried.student.parameters())
    for number in range(2):
        assert tried.step(number, [batch(0, 2)]).read() == plain.step(number, [batch(0, 2)]).read()
    assert all(torch.equal(a, b) for a, b in zip(tried.student.parameters(), plain.student.parameters(), strict=True))


def test_a_full_batch_is_as_long_as_the_model_takes(feed):
    """No window of the data is larger, in sound or in text."""
    found = fullest(feed.loader, 3)
    longest = make_distiller().student.config.max_target_positions
    real = next(iter(feed.steps(None, 1, 0, 1))).batches[0]
    assert found.features.shape == (3, *real.features.shape[1:])
    assert found.tokens.labels.shape[1] == min(longest, feed.loader.codec.max_tokens) >= real.tokens.labels.shape[1]
    assert (found.tokens.labels >= 0).all()


def test_what_is_kept_grows_with_the_windows_and_shrinks_with_recompute(feed):
    one, two = (kept_bytes(make_distiller(), fullest(feed.loader, count)) for count in (1, 2))
    less = kept_bytes(make_distiller(recompute=True), fullest(feed.loader, 1))
    frames, width = 50, 32
    assert 1.8 * one < two < 2.2 * one and less < one and one > 10 * frames * width * 4


def test_nothing_fits_is_one_sentence(feed, monkeypatch):
    monkeypatch.setattr(micro_batch, "_found", lambda *_: 0)
    with pytest.raises(UsageError, match="not even one window fits into memory"):
        micro_batch.settle_micro_batch(make_distiller(), feed, None, ALONE, print)


def write_system(root: Path, groups: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal:       200 kB\nMemAvailable:   100 kB\nHugePages_Total:       0\n")
    (root / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max").replace("_now", ".current")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_free_memory_is_the_machines_or_what_a_job_may_still_take(tmp_path):
    job = {"job__memory_max": "60000", "job__memory_now": "20000", "job__memory.stat": "anon 1\ninactive_file 5000\n"}
    open_ended = job | {"job__memory_max": "max"}
    assert free_memory(write_system(tmp_path / "plain", "0::/\n")) == 102400
    assert free_memory(write_system(tmp_path / "job", "0::/job/step\n", **job)) == 45000
    assert free_memory(write_system(tmp_path / "max", "0::/job\n", **open_ended)) == 102400
    old = {
        "memory__job__memory.limit_in_bytes": "50000", "memory__job__memory.usage_in_bytes": "60000",
        "memory__job__memory.stat": "total_inactive_file 20000\n",
    }  # fmt: skip
    assert free_memory(write_system(tmp_path / "old", "4:memory:/job\n1:cpu:/\n", **old)) == 10000
    assert free_memory(tmp_path / "elsewhere") == 0


@pytest.fixture
def told(monkeypatch):
    """told(n): a machine whose memory is for n windows."""

    def tell(windows: int) -> None:
        monkeypatch.setattr(micro_batch, "kept_bytes", lambda *_: 1000)
        monkeypatch.setattr(micro_batch, "free_memory", lambda: 2000 * windows)

    return tell


def done(*command: str, code: int = 0) -> str:
    result = run_command("distill", "--dtype", "float32", *command)
    assert result.exit_code == code, result.output
    return result.stderr


def weights(name: str) -> bytes:
    return Path(name, "model.safetensors").read_bytes()


def test_a_training_keeps_what_it_began_with(workspace, teacher, digits, told):
    """Another machine goes on with the first one's number, to the same bits; a new training finds its own."""
    assert run_command("init-student").exit_code == 0
    content = configuration(teacher, digits)
    content["defaults"]["distill"]["micro_batch"] = "auto"
    write_configuration(workspace, content)
    told(2)
    assert "--micro-batch auto: 2 at a time\n" in done("--out", "whole")
    found = artifact.load(Path("whole"))
    assert found.results["micro_batch"] == 2 and found.config["micro_batch"] == "auto"
    done("--out", "given", "--micro-batch", "2")
    assert weights("given") == weights("whole") and artifact.load(Path("given")).config["micro_batch"] == 2

    done("--out", "parts", "--max-time", "0:00:00", code=75)
    state = json.loads(Path("parts-checkpoints/step-00000001/state.json").read_text())
    assert state["progress"]["micro_batch"] == 2
    told(1)
    assert "--micro-batch auto: 2 at a time, as this training began" in done("--out", "parts")
    assert weights("parts") == weights("whole") and artifact.load(Path("parts")).results["micro_batch"] == 2
    assert "--micro-batch auto: 1 at a time\n" in done("--out", "anew")
    assert artifact.load(Path("anew")).results["micro_batch"] == 1


OTHERWISE = {
    "a smaller micro-batch": ("--micro-batch", "1"),
    "one for auto": ("--micro-batch", "auto"),
    "recomputed": ("--recompute",),
    "both": ("--micro-batch", "1", "--recompute"),
}


@pytest.mark.parametrize("flags", OTHERWISE.values(), ids=OTHERWISE)
def test_a_training_goes_on_computed_otherwise(flags, workspace, teacher, digits, told):
    """Where a batch comes for which the memory does not suffice, nothing is lost: the same weights, nearly."""
    told(1)
    assert run_command("init-student").exit_code == 0
    write_configuration(workspace, configuration(teacher, digits))
    said = done("--out", "whole", "--micro-batch", "2")
    assert "than before" not in said
    done("--out", "parts", "--micro-batch", "2", "--max-time", "0:00:00", code=75)
    said = " ".join(done("--out", "parts", *("--micro-batch", "2")[: 2 * (flags == ("--recompute",))], *flags).split())
    assert "going on from" in said and f"another {' and '.join(f for f in flags if f[:2] == '--')} than before" in said
    found = artifact.load(Path("parts"))
    assert found.results["micro_batch"] == (1 if "1" in flags else 2) and found.results["steps"] > 1
    last = [f"{name}-checkpoints/step-{found.results['steps']:08d}/student.safetensors" for name in ("parts", "whole")]
    ours, theirs = map(load_file, last)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5) for name in theirs)
    same = all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert same == ("1" not in flags)


@pytest.mark.parametrize("where", ["forward pass", "validation"])
def test_memory_that_does_not_suffice_costs_one_step(where, workspace, monkeypatch):
    """No checkpoint was due before; the same command goes on, to the same bits as one that was never broken off."""
    assert run_command("init-student").exit_code == 0
    common = ("--max-steps", "4", "--eval-every", "3", "--micro-batch", "2")
    done("--out", "whole", *common)
    owner, name, calls = (Learner, "accumulate", 5) if where == "forward pass" else (Validation, "measure", 1)
    method, count = getattr(owner, name), iter(range(1, 100))

    def full(self, *arguments, **others):
        if next(count) == calls:  # of the third step the first micro-batch, or its validation
            raise torch.OutOfMemoryError("CUDA out of memory")
        return method(self, *arguments, **others)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full)
        said = done("--out", "parts", *common, code=1)
    step = 2 if where == "forward pass" else 3
    assert f"step {step} is saved" in said and "out of memory" in said
    assert f"going on from parts-checkpoints/step-0000000{step}" in done("--out", "parts", *common)
    assert weights("parts") == weights("whole")
    logs = [Path(name, "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert [log.count("validation_wer") for log in logs] == [2, 2]


@pytest.mark.parametrize("value", ["some", "1.5", "AUTO", ""])
def test_another_word_is_refused(workspace, value):
    refused = run_command("distill", "--micro-batch", value)
    words = " ".join(refused.stderr.split())
    assert refused.exit_code == 2 and f"--micro-batch is {value!r}, but must be of type int, or auto" in words
    (workspace / "whisperq.yaml").write_text(yaml.safe_dump({"defaults": {"distill": {"micro_batch": value}}}))
    refused = run_command("distill")
    assert refused.exit_code == 3 and f"micro_batch is {value!r}, but must be" in " ".join(refused.stderr.split())


def test_numbers_stay_numbers():
    assert [DistillConfig(micro_batch=x).micro_batch for x in (4, "4", 4.0, None, "auto")] == [4, 4, 4, None, "auto"]
    with pytest.raises(UsageError, match="--micro-batch must be at least 1, not 0"):
        DistillConfig(micro_batch=0)
