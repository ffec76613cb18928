"""What the commands that make and train a student can be told; the paper's values as defaults."""

from dataclasses import dataclass
from typing import Literal

from whisperq.checks import Settings
from whisperq.settings import (
    NormalizerName,
    Padding,
    loop_limit_option,
    option,
    padding_option,
    tokens_per_second_option,
)

Gate = Literal["headwise", "shared", "per-head", "mlp", "elementwise", "none"]


@dataclass(frozen=True)
class InitStudentConfig(Settings):
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
class TrainingConfig(Settings):
    """What distillation and mixed-precision training have in common."""

    max_steps: int = option(200_000, "Optimiser steps.", low=1)
    batch_size: int = option(64, "Utterances of one optimiser step (effective batch).", low=1)
    micro_batch: int | Literal["auto"] | None = option(
        None,
        "Utterances of one forward pass; auto: the largest power of two that fits; default: the whole batch.",
        low=1,
    )
    learning_rate: float = option(1e-4, "Peak learning rate of AdamW.", low=1e-12)
    schedule: Literal["linear", "cosine", "constant"] = option(
        "linear", "How the learning rate goes from its peak, to zero at --max-steps or not at all."
    )
    warmup_steps: int = option(1_000, "Steps of linear warm-up.", low=0)
    beta1: float = option(0.99, "AdamW's first beta (0.99 as the paper prints it).", low=0, high=0.999999)
    beta2: float = option(0.999, "AdamW's second beta.", low=0, high=0.999999)
    epsilon: float = option(1e-8, "AdamW's epsilon.", low=0)
    weight_decay: float = option(1e-4, "AdamW's decoupled weight decay, of biases and norms too.", low=0)
    max_grad_norm: float = option(1.0, "Clip the gradient's global norm here; 0: off.", low=0)
    temperature: float = option(1.0, "Softmax temperature of the KL term, which is scaled by its square.", low=1e-6)
    eval_every: int = option(1_000, "Steps between validations (greedy WER); the best step is kept.", low=1)
    eval_limit: int | None = option(None, "Validate on N utterances only, drawn once from all validation data.", low=1)
    loop_limit: int | None = loop_limit_option()
    tokens_per_second: float | None = tokens_per_second_option()
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")
    pack: bool = option(False, "Join utterances, of one speaker first, until the model's window is full.")
    timestamp_prob: float = option(0.0, "Share of the windows that are learnt with times.", low=0, high=1)
    spec_augment: bool = option(False, "Blank out two stretches of mel bins and two of time in every window.")
    max_label_wer: float | None = option(
        None, "Leave out pseudo-labels whose word error rate to their reference is above this many percent.", low=0
    )
    shuffle_buffer: int = option(
        2_048, "Utterances of a streamed data set that are shuffled together.", low=1, high=1_000_000
    )
    deterministic: bool = option(False, "On a GPU too, equal bits from equal runs, at a cost in speed.")
    recompute: bool = option(
        False, "Gradient checkpointing: keep each layer's input alone, and compute the rest again."
    )
    compile: bool = option(
        False, "Compile both models' layers with torch.compile: a slow first step, faster ones after it."
    )
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
        None,
        "Processes that decode audio; default: on a GPU up to 8, on a CPU a thread.",
        low=0,
        high=256,
        operational=True,
    )
    audio_cache: str | None = option(
        None, "Keep decoded recordings in this folder, and decode each once only.", operational=True
    )
    audio_cache_gib: float = option(64.0, "Size that the folder may have, in GiB.", low=0, operational=True)


@dataclass(frozen=True)
class DistillLoss:
    ce_weight: float = option(1.0, "Weight of the cross-entropy on the references.", low=0)
    kl_weight: float = option(0.8, "Weight of KL(teacher || student), in nats for each token.", low=0)


@dataclass(frozen=True)
class DistillConfig(TrainingConfig, DistillLoss):  # the last base's fields come first
    freeze_encoder: bool = option(False, "Train the decoder alone; an encoder equal to the teacher's then runs once.")
    range_weight: float | None = option(
        None, "Weight of the penalty on ranges: peak over standard deviation, mean over the student's sites.", low=0
    )
    teacher_cache: str | None = option(
        None, "Keep what the teacher says of each window in this folder, and ask it once only.", operational=True
    )
    teacher_cache_gib: float = option(8.0, "Size that the folder may have, in GiB.", low=0, operational=True)


@dataclass(frozen=True)
class MixedPrecision:
    """All values but the target are ours: the paper (arXiv 2501.03643) names the parts and gives no value."""

    target_bits: float = option(3.5, "Mean bits of the quantized weights; met from below, within 0.05.", low=2, high=8)
    bits: str = option("2,3,4,6,8", "Bit-widths to choose from, 2 to 8, joined by commas.")
    mode: Literal["one-stage", "two-stage", "uniform"] = option(
        "one-stage",
        "Widths learned with the weights; by each layer's sensitivity, before training; or alike in every layer.",
    )
    finetune_steps: int | None = option(
        None, "one-stage: the last so many of the steps train at fixed widths; default: a fifth.", low=0
    )
    search_batches: int = option(4, "two-stage: micro-batches that sensitivity is measured on.", low=1)
    task_weight: float = option(1.0, "Weight of the task's own loss: cross-entropy or CTC, nats for each token.", low=0)
    kl_weight: float = option(1.0, "Weight of KL(float model || quantized), in nats for each token.", low=0)
    scale_rate: float = option(1e-3, "Peak learning rate of the scales' logarithms.", low=0)
    bits_rate: float = option(0.02, "one-stage: peak learning rate of the widths' logits.", low=0)
    gumbel_first: float = option(1.0, "one-stage: Gumbel-softmax temperature at the first step.", low=1e-3)
    gumbel_last: float = option(0.1, "one-stage: and at the last step of the search.", low=1e-3)


@dataclass(frozen=True)
class MixedPrecisionConfig(TrainingConfig, MixedPrecision):
    max_steps: int = option(10_000, "Optimiser steps in all.", low=1)
    learning_rate: float = option(1e-5, "Peak learning rate of AdamW.", low=1e-12)
    warmup_steps: int = option(100, "Steps of linear warm-up.", low=0)
    batch_size: int = option(32, "Utterances of one optimiser step (effective batch).", low=1)
    beta1: float = option(0.9, "AdamW's first beta.", low=0, high=0.999999)
    weight_decay: float = option(0.0, "AdamW's decoupled weight decay, of all but scales and widths.", low=0)


@dataclass(frozen=True)
class PseudoLabelConfig(Settings):
    batch_size: int = option(16, "Utterances decoded together.", low=1)
    normalizer: NormalizerName | None = option(
        None, "Text normaliser of the labels' word error rates; default: the one that the list names, else english."
    )
    padding: Padding = padding_option()
    loop_limit: int | None = loop_limit_option()
    tokens_per_second: float | None = tokens_per_second_option()
    temperature_fallback: bool = option(False, "Decode loops and guesses again, at temperatures of 0.2 to 1.")
    skip_bad: bool = option(False, "Count unusable lines and recordings and go on.")
