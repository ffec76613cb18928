"""Trainings that are killed, told to stop, or find a full disk, and go on as if nothing had happened."""

import json
import random
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from conftest import configuration, run_command, write_configuration
from support.processes import Job
from transformers import WhisperConfig

pytestmark = pytest.mark.slow

STEPS = 80
SINCE_THE_LAST_LINE = {"samples_per_second", "audio_hours_per_second", "data_wait", "memory_gib", "padding"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, teacher, digits) -> Path:
    """A working folder whose distillation ran without interruption, with all that draws at random."""
    folder = tmp_path_factory.mktemp("resume")
    dropping = Path(shutil.copytree(teacher, folder / "teacher"))
    config = WhisperConfig.from_pretrained(dropping)
    config.dropout = config.attention_dropout = 0.1
    config.save_pretrained(dropping)
    content = configuration(dropping, digits)
    content["train"] = [{"path": content["train"][0], "weight": 1.5}]
    content["defaults"]["distill"] |= {
        "max_steps": STEPS, "eval_every": 20, "save_every": 1, "log_every": 7, "spec_augment": True, "pack": True,
    }  # fmt: skip
    write_configuration(folder, content)
    job = Job(folder, "init-student")
    assert job.exit_code() == 0, job.said
    job = Job(folder, "distill")
    assert job.exit_code() == 0, job.said
    return folder


@pytest.fixture
def fresh(trained, tmp_path) -> Path:
    """The same folder before the distillation."""
    for name in ("teacher", "whisperq.yaml"):
        copy = shutil.copytree if (trained / name).is_dir() else shutil.copy
        copy(trained / name, tmp_path / name)
    shutil.copytree(trained / "run" / "student", tmp_path / "run" / "student")
    content = yaml.safe_load((tmp_path / "whisperq.yaml").read_text())
    write_configuration(tmp_path, content | {"teacher": str(trained / "teacher")})
    return tmp_path


def marked(folder: Path) -> list[int]:
    """The steps of the complete checkpoints."""
    return sorted(int(p.parent.name.split("-")[1]) for p in (folder / "run" / "checkpoints").glob("step-*/COMPLETE"))


def metrics(folder: Path) -> list[dict]:
    lines = (folder / "run" / "distilled" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in SINCE_THE_LAST_LINE} for line in lines]


def assert_same_result(folder: Path, expected: Path) -> None:
    ours, theirs = (f / "run" / "distilled" / "model.safetensors" for f in (folder, expected))
    assert ours.read_bytes() == theirs.read_bytes()
    last = [f / "run" / "checkpoints" / f"step-{STEPS:08d}" for f in (folder, expected)]
    for name in ("student.safetensors", "optimizer.safetensors"):  # the last step's, which may not be the best
        assert (last[0] / name).read_bytes() == (last[1] / name).read_bytes()
    assert metrics(folder) == metrics(expected)


def test_killed_twenty_times_it_ends_in_the_same_bits(fresh, trained):
    """Half of the kills hit a checkpoint being written."""
    chance, caught, reached = random.Random(0), 0, 0
    checkpoints = fresh / "run" / "checkpoints"
    for kill in range(20):
        job = Job(fresh, "distill")
        goal = reached + chance.randint(1, 3)
        job.until(lambda goal=goal: (marked(fresh) or [0])[-1] >= goal)
        if kill % 2:
            job.until(lambda: any(checkpoints.glob(".step-*.partial")))
        else:
            job.process.join(chance.random() / 50)
        job.signal(signal.SIGKILL)
        assert job.exit_code() == -signal.SIGKILL
        half_written = [p for p in checkpoints.glob("step-*") if not (p / "COMPLETE").exists()]
        caught += bool(half_written or any(checkpoints.glob(".step-*.partial")))
        reached = marked(fresh)[-1]
    assert caught >= 5 and reached < STEPS
    job = Job(fresh, "distill")
    assert job.exit_code() == 0, job.said
    assert f"going on from run/checkpoints/step-{reached:08d}" in job.said
    assert_same_result(fresh, trained)
    assert marked(fresh) == [STEPS - 1, STEPS] and not any(checkpoints.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_saves_and_asks_to_be_run_again(number, fresh, trained):
    job = Job(fresh, "distill", "--save-every", "1000")
    job.until(lambda: '"step": 7' in log_of(fresh))
    job.signal(number)
    job.signal(number)  # impatience corrupts nothing
    assert job.exit_code() == 75, job.said
    (step,) = marked(fresh)
    assert f"step {step} is saved, and the same command goes on from there" in job.said
    assert not (fresh / "run" / "distilled").exists()
    job = Job(fresh, "distill", "--save-every", "1000")
    assert job.exit_code() == 0, job.said
    assert_same_result(fresh, trained)


def log_of(folder: Path) -> str:
    path = folder / "run" / "checkpoints" / "metrics.jsonl"
    return path.read_text() if path.exists() else ""


def test_time_that_is_over_is_a_signal_too(fresh, trained):
    """Again and again, as a queue with a short limit would: at least one step each time."""
    codes = []
    while not codes or codes[-1] == 75:
        job = Job(fresh, "distill", "--max-time", "00:00:00" if len(codes) < 2 else "1-00:00:00")
        codes.append(job.exit_code())
    assert codes == [75, 75, 0] and "step 2 is saved" not in job.said
    assert_same_result(fresh, trained)


def test_validations_longer_than_a_jobs_time_hold_nothing_up(fresh, tmp_path_factory):
    """Each job has no time at all, and each step a validation, which the next job has to make up for."""
    other, steps = tmp_path_factory.mktemp("unhurried"), ("--max-steps", "3", "--eval-every", "1")
    shutil.copytree(fresh, other, dirs_exist_ok=True)
    said = []
    for code in (75, 75, 75, 0):
        job = Job(fresh, "distill", *steps, "--max-time", "0:00")
        assert job.exit_code() == code, job.said
        said.append(job.said)
    assert "step 2 is saved" in said[1] and "step 2: validation WER" in said[2]
    assert Job(other, "distill", *steps).exit_code() == 0
    assert metrics(fresh) == metrics(other)
    assert [m["step"] for m in metrics(fresh) if "validation_wer" in m] == [1, 2, 3]


def test_more_steps_go_on_from_the_last(fresh, trained):
    """The first run's schedule ends earlier, so that only the data and the checkpoint are the same afterwards."""
    assert Job(fresh, "distill", "--max-steps", "20").exit_code() == 0
    job = Job(fresh, "distill", "--max-steps", "40")
    assert job.exit_code() == 0 and "going on from run/checkpoints/step-00000020" in job.said, job.said
    assert [m["step"] for m in metrics(fresh)] == [0, 1, 7, 14, 20, 20, 21, 28, 35, 40, 40]
    manifest = json.loads((fresh / "run" / "distilled" / "manifest.json").read_text())
    assert manifest["config"]["max_steps"] == manifest["results"]["steps"] == 40


@pytest.fixture
def stopped(fresh) -> Path:
    """A training that was told to stop after some steps."""
    job = Job(fresh, "distill", "--max-time", "0:00")
    assert job.exit_code() == 75, job.said
    return fresh


def test_a_disk_that_takes_no_more_leaves_the_older_checkpoint(stopped, trained):
    """The system's own limit on a file's size stands in for a full disk: the write itself fails."""
    (old,) = marked(stopped)
    largest = (stopped / "run" / "checkpoints" / f"step-{old:08d}" / "optimizer.safetensors").stat().st_size
    job = Job(stopped, "distill", environment={"TEST_FILE_LIMIT": str(largest // 2)})
    assert job.exit_code() == 1
    assert f"the checkpoint of step {old + 1} could not be saved" in job.said and "Traceback" not in job.said
    assert f"step-{old:08d} is whole" in job.said and marked(stopped) == [old]
    assert Job(stopped, "distill").exit_code() == 0
    assert_same_result(stopped, trained)


def newest(folder: Path) -> Path:
    return folder / "run" / "checkpoints" / f"step-{marked(folder)[-1]:08d}"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def refused(folder: Path, monkeypatch, code: int, *words: str, flags: tuple[str, ...] = ()) -> None:
    monkeypatch.chdir(folder)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.suffix != ".log"}
    result = run_command("distill", *flags)
    assert result.exit_code == code, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.suffix != ".log"} == before


def test_a_truncated_checkpoint_is_refused_where_it_is_the_only_one(stopped, monkeypatch):
    cut(newest(stopped) / "student.safetensors")
    refused(stopped, monkeypatch, 3, "is damaged: student.safetensors", "--resume never")


def test_a_truncated_checkpoint_gives_way_to_an_older_one(stopped, trained):
    job = Job(stopped, "distill", "--max-time", "0:00")
    assert job.exit_code() == 75 and len(marked(stopped)) == 2
    cut(newest(stopped) / "optimizer.safetensors")
    job = Job(stopped, "distill")
    assert job.exit_code() == 0 and "is damaged" in job.said and "going on from an older one" in job.said
    assert_same_result(stopped, trained)


def test_a_checkpoint_without_its_mark_is_none(stopped, monkeypatch):
    path = newest(stopped)
    (path / "COMPLETE").unlink()
    refused(stopped, monkeypatch, 3, "is no complete checkpoint", flags=("--resume", str(path)))


def test_changed_settings_are_refused_by_name(stopped, monkeypatch):
    flags = ("--learning-rate", "0.5", "--batch-size", "2")
    refused(stopped, monkeypatch, 2, "other settings: batch_size, learning_rate;", "--resume never", flags=flags)
    refused(stopped, monkeypatch, 2, "other settings: max_steps;", flags=("--max-steps", "10"))  # fewer


def test_another_student_and_a_changed_list_are_refused(stopped, digits, monkeypatch):
    monkeypatch.chdir(stopped)
    lines = (digits / "train.jsonl").read_text().splitlines()
    other = [json.dumps(json.loads(line) | {"text": "one"}) for line in lines]
    (stopped / "other.jsonl").write_text("\n".join(other) + "\n")
    refused(stopped, monkeypatch, 3, "the train input changed", flags=("--train", "other.jsonl"))
    assert run_command("init-student", "--gate", "none", "--force").exit_code == 0
    refused(stopped, monkeypatch, 3, "the student input changed")


def test_never_sets_the_old_training_aside(stopped, monkeypatch):
    monkeypatch.chdir(stopped)
    old = (newest(stopped) / "student.safetensors").read_bytes()
    name = newest(stopped).name
    result = run_command("distill", "--resume", "never", "--max-steps", "1", "--seed", "4")
    assert result.exit_code == 0, result.stderr
    assert (stopped / "run" / "checkpoints.1" / name / "student.safetensors").read_bytes() == old
    assert marked(stopped) == [1]


def test_a_named_checkpoint_is_gone_on_from(stopped, trained):
    first = newest(stopped)
    assert Job(stopped, "distill", "--max-time", "0:00").exit_code() == 75
    job = Job(stopped, "distill", "--resume", str(first))
    assert job.exit_code() == 0 and "newer checkpoints are now in run/checkpoints.1" in job.said, job.said
    assert_same_result(stopped, trained)


@pytest.mark.parametrize("text", ["soon", "1:2:3:4", "-1:00", ""])
def test_a_time_that_is_none(text, stopped, monkeypatch):
    refused(stopped, monkeypatch, 2, "--max-time", flags=("--max-time", text))


def test_falling_back_past_a_damaged_checkpoint_loses_no_good_one(stopped, trained):
    """The damaged one steps aside: as the newest it would be kept, and the good ones be removed in its stead."""
    assert Job(stopped, "distill", "--max-time", "0:00").exit_code() == 75
    damaged = newest(stopped)
    (damaged / "state.json").write_text("{")
    job = Job(stopped, "distill", "--keep", "1", "--max-time", "0:00")
    assert job.exit_code() == 75 and "what is damaged is now in run/checkpoints.1" in job.said, job.said
    assert marked(stopped) == [2] and (stopped / "run" / "checkpoints.1" / damaged.name).is_dir()
    assert Job(stopped, "distill").exit_code() == 0
    assert_same_result(stopped, trained)


def test_what_a_kill_left_half_written_is_removed(stopped):
    folder = stopped / "run" / "checkpoints"
    (folder / ".step-00000777.partial").mkdir()
    (folder / ".best-00000777.safetensors.partial").write_bytes(b"half")
    (folder / "step-00000888").mkdir()
    assert Job(stopped, "distill", "--max-time", "0:00").exit_code() == 75
    assert not any(folder.glob("*777*")) and not any(folder.glob(".*")) and not any(folder.glob("*888*"))


def test_best_weights_that_are_gone_are_found_again(fresh):
    steps = ("--eval-every", "2")
    job = Job(fresh, "distill", *steps)
    job.until(lambda: "validation_wer" in log_of(fresh))
    job.signal(signal.SIGTERM)
    assert job.exit_code() == 75
    (best,) = (fresh / "run" / "checkpoints").glob("best-*")
    cut(best)
    job = Job(fresh, "distill", *steps)
    assert job.exit_code() == 0 and "gone or damaged; forgotten" in job.said, job.said
    assert json.loads((fresh / "run" / "distilled" / "manifest.json").read_text())["results"]["best_step"]


def test_another_normaliser_forgets_the_best_and_nothing_else(fresh):
    """It goes on from the third step, which is validated although none was due."""
    steps = ("--eval-every", "2", "--max-steps", "4")
    for _ in range(3):
        assert Job(fresh, "distill", *steps, "--max-time", "0:00").exit_code() == 75
    assert list((fresh / "run" / "checkpoints").glob("best-*"))
    content = yaml.safe_load((fresh / "whisperq.yaml").read_text())
    (fresh / "run" / "whisperq.yaml").unlink(missing_ok=True)
    write_configuration(fresh, content | {"normalizer": "none"})
    job = Job(fresh, "distill", *steps)
    assert job.exit_code() == 0 and "another normaliser than before" in job.said, job.said
    assert "going on from run/checkpoints/step-00000003" in job.said
    found = json.loads((fresh / "run" / "distilled" / "manifest.json").read_text())
    assert found["results"]["normalizer"] == found["config"]["normalizer"] == "none"
    validated = [line["step"] for line in metrics(fresh) if "validation_wer" in line]
    assert validated == [2, 3, 4] and found["results"]["best_step"] in (3, 4)


def test_a_validation_owed_at_the_last_step_is_not_forgotten_when_steps_are_added(fresh, tmp_path_factory):
    """Told to stop at the last step, then prolonged: as if it had never been stopped."""
    other = tmp_path_factory.mktemp("owed")
    for folder in (fresh, other):
        if folder is other:
            shutil.copytree(fresh, other, dirs_exist_ok=True)
            shutil.rmtree(other / "run" / "distilled"), shutil.rmtree(other / "run" / "checkpoints")
            assert Job(other, "distill", "--max-steps", "1", "--max-time", "0:00").exit_code() == 75
        assert Job(folder, "distill", "--max-steps", "1").exit_code() == 0
        assert Job(folder, "distill", "--max-steps", "3").exit_code() == 0
    assert metrics(fresh) == metrics(other)
    files = [f / "run" / "distilled" / "model.safetensors" for f in (fresh, other)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_finished_model_whose_checkpoints_are_gone_is_not_trained_anew_unasked(fresh, monkeypatch):
    assert Job(fresh, "distill", "--max-steps", "1").exit_code() == 0
    shutil.rmtree(fresh / "run" / "checkpoints")
    refused(fresh, monkeypatch, 2, "is finished, and its checkpoints are gone", flags=("--max-steps", "2"))


def test_who_went_back_is_told_how_to_go_on(stopped):
    job = Job(stopped, "distill", "--resume", str(newest(stopped)), "--max-time", "0:00")
    assert job.exit_code() == 75 and "the same command with --resume auto goes on" in job.said


@pytest.mark.parametrize("out", ["/proc/whisperq/distilled", "taken/distilled"])
def test_a_folder_that_takes_nothing_is_refused_before_the_first_step(out, fresh, monkeypatch):
    """Nobody may write in /proc, not even root; and where a file has the name, no folder can."""
    (fresh / "taken").write_text("a file")
    refused(fresh, monkeypatch, 3, "whisperq: ", flags=("--out", out))
