"""Every command as a function: the same artifacts and refusals as its flags give, and no output unasked."""

import ast
import inspect
import json
import logging
import os
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import whisperq as wq
from whisperq.cli.commands import COMMANDS
from whisperq.declared import SETTINGS

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples" / "digits"
NAMES = [command.name.replace("-", "_") for command in COMMANDS]


def alike(one: wq.Artifact, other: wq.Artifact) -> bool:
    return all(one.manifest[key] == other.manifest[key] for key in ("kind", "command", "config", "inputs", "files"))


def test_importing_it_is_light():
    script = (
        "import time, sys; before = time.perf_counter()\n"
        "import whisperq as wq; seconds = time.perf_counter() - before\n"
        "new = set(sys.modules); wq.quantize, wq.eval, wq.report, wq.UsageError\n"
        "print(seconds, 'whisperq.api' in new, any(n in sys.modules for n in ('torch', 'transformers', 'matplotlib')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, *heavy = done.stdout.split()
    assert float(seconds) < 0.2 and heavy == ["False", "False"] and done.stderr == ""
    assert (Path(wq.__file__).parent / "py.typed").is_file()


def test_no_package_hides_a_function_of_its_name():
    """Once it is imported, a package is an attribute of the one above it. `report` can be called."""
    packages = {place.name for place in Path(wq.__file__).parent.iterdir() if (place / "__init__.py").is_file()}
    assert packages & set(wq.__all__) == {"report"}


def test_every_command_is_a_function_of_the_package():
    assert sorted(wq.STEPS) == sorted(NAMES) and set(wq.__all__) <= set(dir(wq))
    assert all(callable(getattr(wq, name)) for name in wq.__all__)
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        wq.quantise  # noqa: B018


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_a_signature_is_made_of_the_commands_inputs_and_settings(command):
    step = getattr(wq, command.name.replace("-", "_"))
    parameters = inspect.signature(step).parameters
    for f in fields(SETTINGS[command.name]):
        assert parameters[f.name].default == f.default and parameters[f.name].kind is inspect.Parameter.KEYWORD_ONLY
    required = {flag.name for flag in command.inputs if flag.positional}
    assert {n for n, p in parameters.items() if p.default is inspect.Parameter.empty} == required
    assert {"out", "seed", "device", "progress"} <= set(parameters) and not {"json", "dry_run"} & set(parameters)
    if step is not wq.report:  # a package, with a docstring of its own
        assert all(f"\n    {name}: " in step.__doc__ for name in parameters)


REFUSED = {
    "choice": (lambda: wq.quantize(recipe="foo"), "--recipe is 'foo', but must be one of gemm, paper"),
    "one of several": (lambda: wq.calibrate(observer="ema,emma"), "'emma', but must be one of ema, minmax"),
    "limit": (lambda: wq.quantize(weight_bits=99), "--weight-bits must be at most 8, not 99"),
    "type": (lambda: wq.distill(max_steps="many"), "--max-steps is 'many', but must be of type int"),
    "shared": (lambda: wq.eval(device="tpu"), "--device is 'tpu', but must be one of auto, cpu, cuda"),
    "flag of the experiment": (lambda: wq.transcribe("x", task="sing"), "--task is 'sing', but must be one of"),
    "experiment": (lambda: wq.calibrate(task="sing"), "'sing', but must be one of transcribe, translate"),
    "no path": (lambda: wq.quantize(3), "--model is 3, but must be a path"),
    "no data": (lambda: wq.calibrate(data=[]), "--data is empty"),
    "contradiction": (lambda: wq.calibrate(dev="x.jsonl"), "--dev is for --observer stablequant"),
}


@pytest.mark.parametrize("call, words", REFUSED.values(), ids=REFUSED)
def test_what_a_flag_would_refuse_is_refused_in_the_same_words(call, words, workspace):
    before = sorted(workspace.iterdir())
    with pytest.raises(wq.UsageError) as error:
        call()
    assert words in str(error.value) and sorted(workspace.iterdir()) == before


def test_a_misspelt_argument_is_python_s_own_error(workspace):
    with pytest.raises(TypeError, match=r"quantize\(\) got an unexpected keyword argument 'recpie' \(did you mean rec"):
        wq.quantize(recpie="gemm")
    with pytest.raises(TypeError, match=r"transcribe\(\): missing a required argument: 'files'"):
        wq.transcribe()


def test_calls_make_what_commands_make(workspace, teacher, digits, invoke, capfd):
    """By paths as str and Path, artifacts and sources; nothing is said, and whisperq.yaml counts as it does there."""
    student = wq.init_student(str(teacher), layers=3, out=workspace / "python" / "student")
    data = [digits / "validation.jsonl", wq.Source(path=str(digits / "train.jsonl"), limit=4)]
    ranges = wq.calibrate(student, data=data[0], observer=["minmax", "ema"], out="python/ranges")
    small = wq.quantize(student.path, ranges, exclude=["enc.0.*"], budget=3, out="python/small")
    tested = wq.eval(small, test={"one": data[0], "two": data[1]}, limit=3, out=Path("python/eval"))
    again = wq.quantize(student, ranges, exclude="enc.0.*", budget=3.0, out="python/small")
    assert again.path == small.path and capfd.readouterr() == ("", "")  # finished already
    assert not (workspace / "run").exists()  # every artifact had a place of its own
    commands = {
        "student": ("init-student", "--teacher", teacher, "--layers", "3"),
        "ranges": ("calibrate", "--model", student.path, "--data", data[0], "--observer", "minmax,ema"),
        "small": ("quantize", "--model", student.path, "--calibration", ranges.path, "--exclude", "enc.0.*"),
    }
    extra = {"small": ("--budget", "3")}
    for name, made in {"student": student, "ranges": ranges, "small": small}.items():
        result = invoke(*commands[name], *extra.get(name, ()), "--out", workspace / "shell" / name)
        assert result.exit_code == 0, result.output
        assert alike(made, wq.load(str(workspace / "shell" / name))), name
    assert made.config["budget"] == 3.0 and ranges.config["batches"] == 2  # of whisperq.yaml
    assert {n: s["utterances"] for n, s in tested.results["sets"].items()} == {"one": 3, "two": 3}


def test_without_places_the_run_folder_has_them(workspace, monkeypatch):
    monkeypatch.setenv("WHISPERQ_RUN", "elsewhere")
    student = wq.init_student(language="de")
    assert student.path == Path("elsewhere/student") and student.config["language"] == "de"
    assert student.results and wq.calibrate(run="elsewhere").inputs["model"]["path"].endswith("elsewhere/student")
    assert "language" not in Path("elsewhere/whisperq.yaml").read_text()  # the configuration, not one call's own word


def test_announcements_are_logged_and_shown_where_they_are_asked_for(workspace, teacher, capfd, caplog):
    with caplog.at_level(logging.INFO, logger="whisperq"):
        wq.init_student(teacher, out="logged")
    assert f"teacher: {teacher}" in [record.getMessage() for record in caplog.records]
    assert capfd.readouterr() == ("", "")
    caplog.clear()
    wq.init_student(teacher, out="shown", progress=True)
    assert f"teacher: {teacher}" in capfd.readouterr().err and not caplog.records


def test_text_comes_back_and_nothing_is_printed(workspace, digits, invoke, capfd):
    """The embedded teacher's words are those that were spoken."""
    model, lines = DIGITS / "teacher", [json.loads(line) for line in (digits / "test.jsonl").read_text().splitlines()]
    audio = [Path(line["audio_filepath"]) for line in lines[:2]]
    one, both = wq.transcribe(audio[0], model=model), wq.transcribe(map(str, audio), model=model, format="json")
    assert one == lines[0]["text"] and capfd.readouterr() == ("", "")
    shell = invoke("transcribe", *audio, "--model", model, "--format", "json")
    assert [entry["text"] for entry in json.loads(both)["files"]] == [line["text"] for line in lines[:2]]
    assert both == shell.stdout and wq.transcribe(audio[0], model=model, out="kept.txt") == ""
    assert Path("kept.txt").read_text() == f"{one}\n"


def test_the_help_of_transcribe_is_about_transcripts(invoke):
    """What it says of flags of all steps holds for artifacts, which transcribe makes none of."""
    shell = " ".join(invoke("transcribe", "--help").stdout.replace("│", " ").split())
    for text in (wq.transcribe.__doc__, shell):
        assert not any(word in text for word in ("artifact", "manifest", "nothing is returned"))
    assert "default: standard output" in wq.transcribe.__doc__ and "artifact here instead" in wq.quantize.__doc__


def test_a_package_of_a_command_s_name_can_be_called(workspace, capfd):
    from whisperq.jobs.progress import say  # the package is there beside it

    wq.init_student()
    page = wq.report("run", title="Runs", out="page")
    assert page.kind == "report" and (page.path / "report.html").is_file() and callable(say)
    assert capfd.readouterr() == ("", "")


def test_an_artifact_is_a_line_in_a_notebook(copied_run):
    """Its manifest, which names every site, is not shown."""
    assert repr(wq.load("run/quantized/gemm-w8a8")) == "<quantized run/quantized/gemm-w8a8>"
    with pytest.raises(wq.InputError, match="run/gone is not a finished whisperq artifact: nothing is there"):
        wq.load("run/gone")


def test_the_document_names_what_there_is():
    """Every keyword of the README's calls is one of the function's."""
    text = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    named = [call for call in calls if getattr(call.func, "attr", None) in wq.__all__]
    assert {call.func.attr for call in named} == {"calibrate", "quantize", "transcribe", "Source"}
    for call in named:
        signature = inspect.signature(getattr(wq, call.func.attr))
        signature.bind(*call.args, **{keyword.arg: None for keyword in call.keywords})


def test_the_example_as_it_would_be_pasted(workspace, teacher, monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "MODEL", str(teacher))
    monkeypatch.setitem(os.environ, "OUT", str(workspace / "int8"))
    monkeypatch.setattr(sys, "argv", ["quantize.py"])
    made = runpy.run_path(str(ROOT / "examples" / "python" / "quantize.py"))
    printed = capsys.readouterr()
    assert "--recipe is 'fp8', but must be one of gemm, paper" in printed.out and printed.err == ""
    assert made["small"].kind == "quantized" and wq.load(workspace / "int8" / "model").path == made["small"].path
    assert len(printed.out.splitlines()) == 4 and not (workspace / "int8" / "other").exists()
