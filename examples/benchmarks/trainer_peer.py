"""The other trainer: transformers' Seq2SeqTrainer with the same two losses, in plain torch.

Same models, windows, number format, optimiser and schedule as ours. What differs is what is compared: whole logits of
both models and their softmaxes through autograd, and the Trainer's own loop, all else at its defaults.
"""

import tempfile
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from training_shapes import Pair, padded, random_features, window_ids
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

from whisperq.data.tokens import IGNORED
from whisperq.training.loop import learning_rate
from whisperq.training_options import DistillConfig


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, kl_weight: float) -> Tensor:
    """Logits (batch, tokens, vocabulary), labels (batch, tokens) -> CE + a_KL KL, summed over the labelled tokens."""
    student, teacher = student.float(), teacher.float()
    ce = functional.cross_entropy(student.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    kl = functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)
    return ce + kl_weight * kl.masked_fill(labels == IGNORED, 0.0).sum()


class DistillationTrainer(Seq2SeqTrainer):
    # The Trainer takes it from `forward(**kwargs)` that Whisper divides its loss by the tokens of the whole effective
    # batch, and does not divide it again; but Whisper takes each micro-batch's own mean, so that accumulating N of
    # them gives N times the loss and the gradient. Here the loss really is divided by those tokens:
    loss_is_scaled_for_ga = True

    def __init__(self, teacher: nn.Module, kl_weight: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.teacher, self.kl_weight = teacher, kl_weight

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        student = model(**inputs, use_cache=False).logits
        with torch.no_grad():
            inputs["input_features"] = inputs["input_features"].to(self.teacher.dtype)
            teacher = self.teacher(**inputs, use_cache=False).logits
        return distillation_loss(student, teacher, labels, self.kl_weight) / num_items_in_batch


class Steps(TrainerCallback):
    """Tells of every update's end, and keeps what the first one's log says."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self.ended, self.first = ended, {}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ended()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not self.first:
            self.first = {"loss": logs["loss"], "gradient_norm": logs["grad_norm"]}


class Windows(torch.utils.data.Dataset):
    """`count` windows, made before anything is timed, their features on the device, as ours are."""

    def __init__(self, pair: Pair, batch: int, count: int, device: str) -> None:
        self.pair, self.features = pair, random_features(pair, batch).to(device)
        self.texts = [window_ids(pair, number) for number in range(count)]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> tuple[Tensor, list[int]]:
        return self.features[number % len(self.features)], self.texts[number]

    def collate(self, windows: list[tuple[Tensor, list[int]]]) -> dict[str, Tensor]:
        features, texts = zip(*windows, strict=True)
        inputs, labels = padded(list(texts), self.pair.vocabulary - 1, IGNORED)
        device = features[0].device
        return {
            "input_features": torch.stack(features),
            "decoder_input_ids": inputs.to(device),
            "labels": labels.to(device),
        }


def arguments(task: dict, folder: str, autocast: torch.dtype, device: str) -> Seq2SeqTrainingArguments:
    return Seq2SeqTrainingArguments(
        folder,
        per_device_train_batch_size=task["micro"],
        gradient_accumulation_steps=task["batch"] // task["micro"],
        max_steps=task["warmup"] + task["steps"],
        bf16=autocast == torch.bfloat16,
        use_cpu=device == "cpu",
        max_grad_norm=DistillConfig.max_grad_norm,
        gradient_checkpointing=task["gradient_checkpointing"],
        torch_compile=task["compile"],
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_pin_memory=False,  # it is on the device already
        logging_first_step=True,
        logging_steps=10**6,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def train(student: nn.Module, teacher: nn.Module, pair: Pair, task: dict, config: DistillConfig, ended) -> dict:
    """All steps, `ended` called after each; the first one's loss and gradient norm."""
    device, autocast = next(student.parameters()).device.type, getattr(torch, task["dtype"])
    student.model.encoder.requires_grad_(not config.freeze_encoder)
    student.model.encoder.embed_positions.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [p for p in student.parameters() if p.requires_grad],
        lr=1.0, betas=(config.beta1, config.beta2), eps=config.epsilon, weight_decay=config.weight_decay, fused=True,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, config))
    if task["compile"]:  # the Trainer's own torch_compile is of the student alone
        teacher.compile()
    windows = Windows(pair, task["batch"], task["batch"] * config.max_steps, device)
    steps = Steps(ended)
    with tempfile.TemporaryDirectory() as folder:
        DistillationTrainer(
            teacher.eval().requires_grad_(False).to(autocast),
            config.kl_weight,
            model=student,
            args=arguments(task, folder, autocast, device),
            train_dataset=windows,
            data_collator=windows.collate,
            optimizers=(optimizer, schedule),
            callbacks=[steps],
        ).train()
    return steps.first
