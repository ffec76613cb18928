"""Run folders as the commands leave them, but written by hand: every number in them is known."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whisperq import artifact
from whisperq.declared import SETTINGS
from whisperq.results.hypotheses import HypothesisLine
from whisperq.results.sets import write_set
from whisperq.scoring.normalizers import get_normalizer
from whisperq.scoring.sets import over_sets, score_set
from whisperq.settings import Context

WORDS = "zero one two three four five six seven eight nine".split()


@dataclass(frozen=True)
class Transcribed:
    """A test set: `wrong` of its utterances' first words are transcribed as another, from utterance `start` on."""

    name: str
    wrong: int
    group: str | None = None
    utterances: int = 40
    start: int = 0
    normalizer: str = "basic"

    def texts(self) -> tuple[list[str], list[str]]:
        references = [" ".join(WORDS[(i + k) % 10] for k in range(3)) for i in range(self.utterances)]
        broken = range(self.start, self.start + self.wrong)
        return references, [f"wrong {r.split(' ', 1)[1]}" if i in broken else r for i, r in enumerate(references)]


def create(out: Path, kind: str, command: str, inputs: dict[str, Path], seed: int = 0, **settings):
    config = Context(seed=seed).settings(SETTINGS[command](**settings))
    return artifact.create(out, kind, command, config, {r: artifact.reference(p) for r, p in inputs.items()})


def write_teacher(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"encoder_layers": 6, "decoder_layers": 3}))
    return folder


def write_model(folder: Path, layers: int, gate: str, size: int, **gates) -> None:
    config = {"encoder_layers": layers, "decoder_layers": 2, "gate": gate, **gates}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(bytes(size))


def write_training(run: Path, teacher: Path, layers: int, gate: str, seed: int = 0, **init) -> None:
    """student/, distilled/ with its log, quantized/gemm-w8a8/; init: other settings of init-student."""
    gates = {name: init[name] for name in ("gate_init", "cross_gate") if name in init}
    with create(run / "student", "student", "init-student", {"teacher": teacher}, seed, gate=gate, **init) as draft:
        write_model(draft.folder, layers, gate, 4000, **gates)
    inputs = {"student": run / "student", "teacher": teacher}
    with create(run / "distilled", "distilled", "distill", inputs, seed) as draft:
        write_model(draft.folder, layers, gate, 4000, **gates)
        (draft.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(e)}\n" for e in log(gate)))
    with create(run / "calibration", "calibration", "calibrate", {"model": run / "distilled"}, seed) as draft:
        site = {"ranges": {"ema": [-1.0, 2.0]}, "minima": [-1.5, -1.0], "maxima": [1.0, 2.5]}
        sites = {f"{part}.{i}.fc1": site for part in ("enc", "dec") for i in range(2)}
        (draft.folder / "ranges.json").write_text(json.dumps({"observers": ["ema"], "sites": sites}))
    inputs = {"model": run / "distilled", "calibration": run / "calibration"}
    with create(run / "quantized" / "gemm-w8a8", "quantized", "quantize", inputs, seed) as draft:
        write_model(draft.folder, layers, gate, 1000, **gates)
        draft.results |= {"recipe": "gemm", "weight_bits": 8, "activation_bits": 8, "bytes": 1000, "float_bytes": 4000}


def write_quantized(run: Path, name: str, results: dict | None = None, **settings) -> Path:
    """Another quantization of distilled/; results: what quantize says beside the bits."""
    out, inputs = run / "quantized" / name, {"model": run / "distilled", "calibration": run / "calibration"}
    with create(out, "quantized", "quantize", inputs, **settings) as draft:
        config = json.loads((run / "distilled" / "config.json").read_text())
        write_model(draft.folder, config["encoder_layers"], config["gate"], 1000)
        draft.results |= {"recipe": "gemm", "weight_bits": 8, "activation_bits": 8, "bytes": 1000, "float_bytes": 4000}
        draft.results |= results or {}
    return out


def log(gate: str) -> list[dict]:
    sites = {"enc.0.out_proj": 3.0, "dec.0.out_proj": 4.0, "dec.0.cross.out_proj": 5.0}
    gates = {"gates": {"enc.0.gate": 0.9}, "gates_by_head": {"enc.0.gate": [0.8, 1.0]}} if gate != "none" else {}
    measured = [{"step": s, "kurtosis": 4.0, "kurtosis_by_site": sites, **gates} for s in (1, 2, 3)]
    return [{"step": 1, "loss": 2.0}, *measured]


def write_evaluation(
    run: Path, model: Path, name: str, sets: Sequence[Transcribed], runtime: str, seed: int = 0, **settings
) -> Path:
    """As eval writes it: 2 s of audio an utterance, transcribed in 0.1 s each, by `processes` at once."""
    processes = settings.pop("processes", 1)
    out, results = run / "eval" / name, {}
    with create(out, "evaluation", "eval", {"model": model}, seed, runtime=runtime, **settings) as draft:
        for one in sets:
            texts = zip(*one.texts(), strict=True)
            lines = [HypothesisLine(f"{one.name}-{i}", r, h, duration=2.0, time=0.1) for i, (r, h) in enumerate(texts)]
            columns = [x.id for x in lines], *one.texts()
            scored = score_set(*columns, get_normalizer(one.normalizer), "jiwer")
            seconds = {"audio_seconds": 2.0 * len(lines), "wall_seconds": 0.1 * len(lines) / processes}
            rtfx = 20.0 * processes
            results[one.name] = {"group": one.group, **scored.results(0), **seconds, "rtfx": rtfx}
            write_set(draft.folder, out, one.name, lines, scored, results[one.name])
        draft.results |= {"runtime": runtime, "device": "cpu", "sets": results, **over_sets(results)}
    return out


def write_outliers(run: Path, kurtosis: float, data: Path, seed: int = 0) -> Path:
    out = run / "outliers" / "distilled" / "attention-outputs"
    with create(out, "outliers", "outliers", {"model": run / "distilled", "data": data}, seed) as draft:
        figures = {"kurtosis": kurtosis, "max_inf_norm": 2 * kurtosis, "peak": 9.0, "outliers": 1, "values": 100}
        draft.results |= {"model": {**figures, "sites": ["enc.0.out_proj"]}, "titles": {"model": "distilled"}}
        draft.results |= {"padding": "decoder padding masked", "utterances": 4}
    return out


def write_grid(folder: Path, seeds: Sequence[int] = (0,)) -> Path:
    """Two gates at one depth, float and INT8: the gated one makes 2 errors in 120 words, the other 12, INT8 4 more."""
    teacher = write_teacher(folder / "teacher")
    data = folder / "test.jsonl"
    data.write_text('{"audio_filepath": "a.wav", "text": "one"}\n')
    for gate, wrong in (("none", 12), ("headwise", 2)):
        for seed in seeds:
            run = folder / "runs" / f"{gate}-{seed}"
            write_training(run, teacher, 3, gate, seed)
            for model, runtime, more in (("distilled", "float", 0), ("quantized/gemm-w8a8", "int8", 4)):
                sets = [Transcribed("clean", wrong + more, "id"), Transcribed("noisy", wrong + more, "ood", start=10)]
                write_evaluation(run, run / model, f"{Path(model).name}-{runtime}", sets, runtime)
            write_outliers(run, 10.0 + seed if gate == "none" else 4.0 + seed / 2, data, seed)
    return folder / "runs"


def write_sensitivity(run: Path, model: Path, data: Path, kl: float, snr: float | None, seed: int = 0) -> None:
    """Of a whole quantized model; snr: dB, None of one that differs in nothing."""
    inputs = {"model": model, "float": run / "distilled", "data": data}
    with create(run / "sensitivity" / model.name, "sensitivity", "sensitivity", inputs, seed, by="model") as draft:
        draft.results |= {"by": "model", "tokens": 100, "everything": {"kl": kl, "snr_db": snr}, "figures": []}
