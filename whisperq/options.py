"""What each command can be told: frozen dataclasses, the paper's values as defaults.

One field is one flag: its default and its help line stand here and nowhere else.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Gate = Literal["headwise", "shared", "per-head", "mlp", "elementwise", "none"]
Observer = Literal["ema", "minmax", "percentile", "mse"]
NormalizerName = Literal["english", "basic", "none"]
RuntimeName = Literal["float", "emulated", "int8", "onnx", "openvino"]


def option(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    off: str | None = None,
    operational: bool = False,
) -> Any:
    """A setting with its help line, the least and greatest value that make sense, and a switch's opposite.

    operational: how a job is run, which its result does not depend on; a rerun may change it.
    """
    metadata = {"help": help, "low": low, "high": high, "off": off, "operational": operational}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Common:
    """Flags of every command."""

    run: str = option("run", "Run folder: every command has its place in it.")
    config: str | None = option(None, "Configuration file; default: ./whisperq.yaml, else the run folder's.")
    out: str | None = option(None, "Write the artifact here instead of its place in the run folder.")
    force: bool = option(False, "Replace an artifact that differs.", off="")
    seed: int = option(0, "Seed of every random choice.", low=0, high=2**31 - 1)
    device: Literal["auto", "cpu", "cuda"] = option("auto", "Where to compute.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "Number format; auto: float32, in distill bfloat16 autocast where the hardware has it."
    )
    json: bool = option(False, "Print one JSON object, the manifest, on stdout and all else on stderr.", off="")


@dataclass(frozen=True)
class InitStudentConfig:
    layers: int = option(16, "Encoder layers of the student (the paper: 8, 16, 24).")
    decoder_layers: int = option(2, "Decoder layers of the student.")
    encoder_indices: str | None = option(None, "Teacher's encoder layers to copy, such as 0,2,5; replaces --layers.")
    decoder_indices: str | None = option(None, "Teacher's decoder layers to copy; replaces --decoder-layers.")
    copy_rule: Literal["first", "spread"] = option(
        "first", "Encoder layer i copies floor(i*L/n), from the first; spread: evenly with the last included."
    )
    gate: Gate = option("headwise", "Network of the sigmoid gate; none: stock Whisper.")
    gate_init: float = option(0.5, "pi_init: sigmoid(G(x))/pi_init starts at one.")
    cross_gate: bool = option(True, "Gate cross-attention too.")


@dataclass(frozen=True)
class DistillConfig:
    ce_weight: float = option(1.0, "Weight of the cross-entropy on the references.", low=0)
    kl_weight: float = option(0.8, "Weight of KL(teacher || student), in nats for each token.", low=0)
    temperature: float = option(1.0, "Softmax temperature of the KL term, which is scaled by its square.", low=1e-6)
    max_steps: int = option(200_000, "Optimiser steps.", low=1)
    batch_size: int = option(64, "Utterances of one optimiser step (effective batch).", low=1)
    micro_batch: int | None = option(None, "Utterances of one forward pass; default: the whole batch.", low=1)
    learning_rate: float = option(1e-4, "Peak learning rate of AdamW; falls linearly to zero.", low=1e-12)
    warmup_steps: int = option(1_000, "Steps of linear warm-up.", low=0)
    beta1: float = option(0.99, "AdamW's first beta (0.99 as the paper prints it).", low=0, high=0.999999)
    beta2: float = option(0.999, "AdamW's second beta.", low=0, high=0.999999)
    epsilon: float = option(1e-8, "AdamW's epsilon.", low=0)
    weight_decay: float = option(1e-4, "AdamW's decoupled weight decay.", low=0)
    max_grad_norm: float = option(1.0, "Clip the gradient's global norm here; 0: off.", low=0)
    freeze_encoder: bool = option(False, "Train the decoder alone; an encoder equal to the teacher's then runs once.")
    eval_every: int = option(1_000, "Steps between validations (greedy WER); the best step is kept.", low=1)
    eval_limit: int | None = option(None, "Validate on N utterances only, drawn once from all validation data.", low=1)
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")
    pack: bool = option(False, "Join utterances, of one speaker first, until the model's window is full.")
    timestamp_prob: float = option(0.0, "Share of the windows that are learnt with times.", low=0, high=1)
    spec_augment: bool = option(False, "Blank out two stretches of mel bins and two of time in every window.")
    max_label_wer: float | None = option(
        None, "Leave out pseudo-labels whose word error rate to their reference is above this many percent.", low=0
    )
    shuffle_buffer: int = option(2_048, "Utterances of a streamed data set that are shuffled together.", low=1)
    deterministic: bool = option(False, "On a GPU too, equal bits from equal runs, at a cost in speed.")
    recompute: bool = option(
        False, "Gradient checkpointing: keep each layer's input alone, and compute the rest again."
    )
    compile: bool = option(False, "Compile both models with torch.compile: minutes at the start, faster steps.")
    log_every: int = option(10, "Steps between lines of metrics.jsonl.", low=1, operational=True)
    report_to: Literal["none", "tensorboard"] = option("none", "Log there too.", operational=True)
    resume: str = option(
        "auto", "auto: go on from the newest checkpoint; never: start anew; or a checkpoint's folder.", operational=True
    )
    save_every: int = option(1_000, "Steps between checkpoints.", low=1, operational=True)
    keep: int = option(2, "Checkpoints to keep; the best step's weights are kept apart.", low=1, operational=True)
    max_time: str | None = option(
        None, "Save a checkpoint and exit with 75 after HH:MM:SS of this job.", operational=True
    )
    workers: int | None = option(
        None, "Processes that decode audio; default: on a GPU up to 8, on a CPU a thread.", low=0, operational=True
    )


@dataclass(frozen=True)
class PseudoLabelConfig:
    batch_size: int = option(16, "Utterances decoded together.", low=1)
    normalizer: NormalizerName | None = option(
        None, "Text normaliser of the labels' word error rates; default: the one that the list names, else english."
    )
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class CalibrateConfig:
    batches: int = option(16, "Batches of calibration data.", low=1)
    batch_size: int = option(8, "Utterances in a batch.", low=1)
    observer: Observer = option("ema", "Range estimator of the activations.")
    momentum: float = option(0.9, "EMA: weight of the old value; the first batch initialises.", low=0, high=0.999999)
    percentile: float = option(99.999, "Percentile observer: percent of the mass that is kept.", low=50, high=100)
    activation_bits: int | None = option(None, "Bits that the mse observer optimises for; default 8.", low=4, high=8)
    sites: str | None = option(None, "Sites to observe, such as enc.*.fc1,dec.1.out_proj; default: all.")
    channel_maxima: bool = option(False, "Keep each channel of the norms' outputs too, for quantize --smooth.", off="")
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class QuantizeConfig:
    recipe: Literal["gemm", "paper"] = option("gemm", "Which weights and activations: see the README.")
    weight_bits: int = option(8, "Bits of the weights, 2 to 8.", low=2, high=8)
    group: int | None = option(None, "Weights that share a scale, such as 64; default: an output channel's.", low=8)
    weights: Literal["rtn", "mse"] = option("rtn", "rtn: scales span all weights; mse: least squared error.")
    activations: Literal["static", "dynamic", "none"] = option(
        "static", "Ranges of the activations: calibrated, each token's own, or none: weights alone are quantized."
    )
    activation_bits: int = option(8, "Bits of the activations, 4 to 8.", low=4, high=8)
    per_channel: bool | None = option(
        None,
        "One weight scale for each output channel, or for the tensor; default: gemm per channel, paper per tensor.",
        off="per-tensor",
    )
    exclude: tuple[str, ...] = option((), "Keep these sites in float, such as enc.0.* or dec.1.fc1:weight; repeatable.")
    smooth: float | None = option(None, "SmoothQuant's alpha, such as 0.5; default: not smoothed.", low=0, high=1)
    encoder_only: bool = option(False, "Quantize the encoder alone.")


@dataclass(frozen=True)
class SensitivityConfig:
    by: Literal["block", "site"] = option("block", "Parts: attention and feed-forward blocks, or sites and weights.")
    wer: bool = option(False, "Word error rates of greedy decoding too: slow.", off="")
    worst: int = option(3, "Parts that the --exclude line names.", low=1)
    limit: int = option(32, "First N utterances of each list only.", low=1)
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class Execution:
    """How a model is run."""

    runtime: RuntimeName | None = option(
        None, "What runs the model; default: float, of a quantized model emulated, of an exported one onnx."
    )
    attention_dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "int8, openvino: number format of attention's products; auto: bfloat16 where the CPU multiplies it."
    )
    reduce_range: bool | None = option(
        None, "int8: activations on 7 bits, so that sums cannot saturate; default: where the CPU lacks VNNI."
    )


@dataclass(frozen=True)
class EvalConfig(Execution):
    batch_size: int = option(16, "Utterances decoded together.", low=1)
    limit: int | None = option(None, "First N utterances of each set only.", low=1)
    normalizer: NormalizerName | None = option(
        None, "Text normaliser of every set; default: the one that the set names, else english."
    )
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class ExportConfig:
    float: bool = option(False, "Export the unquantized model.", off="")


@dataclass(frozen=True)
class TranscribeConfig(Execution):
    runtime: RuntimeName | None = option(
        None,
        "What runs the model; default: float, of a gemm model int8, of a paper one emulated, of exported ones onnx.",
    )
    format: Literal["text", "json", "srt", "vtt"] = option("text", "How to write the transcripts.")
    batch_size: int = option(8, "Pieces of audio decoded together.", low=1)
    timestamps: bool | None = option(
        None, "Times as the model writes them, not those of the pieces; default: in json, srt, vtt where it knows how."
    )


@dataclass(frozen=True)
class OutliersConfig:
    layer: str | None = option(None, "Sites, such as dec.1.out_proj or enc.*.out_proj; default: attention outputs.")
    batch_size: int = option(8, "Utterances in a batch.", low=1)
    limit: int | None = option(None, "First N utterances of each set only.", low=1)
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")


@dataclass(frozen=True)
class PlotAttentionConfig:
    layer: str = option("dec.-1", "Attention block: enc.<i>, dec.<i> or dec.<i>.cross.")
    head: str = option("0", "Head, counted from zero, or all for a grid.")


SETTINGS = {
    "init-student": InitStudentConfig,
    "pseudo-label": PseudoLabelConfig,
    "distill": DistillConfig,
    "calibrate": CalibrateConfig,
    "quantize": QuantizeConfig,
    "sensitivity": SensitivityConfig,
    "export": ExportConfig,
    "eval": EvalConfig,
    "transcribe": TranscribeConfig,
    "outliers": OutliersConfig,
    "plot-attention": PlotAttentionConfig,
}


@dataclass(frozen=True)
class Context:
    """What every step is told beside its own settings."""

    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    force: bool = False
    language: str | None = "en"
    task: str = "transcribe"

    def settings(self, config: Any, **chosen: Any) -> dict[str, Any]:
        """All values that decide a result, for the manifest; `chosen` are those that the step found out itself.

        The device is the one asked for: a requeued job finds its work done on whichever node it lands.
        """
        shared = {name: getattr(self, name) for name in ("device", "dtype", "seed", "language", "task")}
        deciding = {f.name for f in fields(config) if not f.metadata["operational"]}
        return {**{k: v for k, v in asdict(config).items() if k in deciding}, **shared, **chosen}
