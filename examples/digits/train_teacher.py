"""Trains the digits teacher from scratch, in half an hour on two CPU cores.

    python train_teacher.py --speech DIR --out teacher --minutes 27

    loss = CE(tokens) + w * CE(frames)

`frames`: which half of which digit, or silence, each encoder output covers. A
linear head reads it and is thrown away; without it, and with the stock
initialisation, the encoder is still deaf after a thousand steps.
"""

from functools import partial

import numpy as np
import torch
from batches import Batch, make_batch, prefetched
from fitting import Task, finish, frame_loss, list_paths, parse, train
from greedy_wer import word_error_rate
from make_tokenizer import make_processor, save_processor
from mixing import load_sources
from recipe import Settings, build_model
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import WhisperForConditionalGeneration


def losses(
    model: WhisperForConditionalGeneration, head: nn.Linear, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Token loss, frame loss, and the share of frames classified correctly."""
    out = model(input_features=batch.features, decoder_input_ids=batch.inputs, use_cache=False)
    token_loss = cross_entropy(out.logits.float().flatten(0, 1), batch.targets.flatten())
    return token_loss, *frame_loss(head, out.encoder_last_hidden_state, batch.frames)


def main() -> None:
    args, settings = parse(__doc__.splitlines()[0], Settings(), "teacher")
    torch.set_num_threads(args.threads)
    torch.manual_seed(settings.seed)
    processor = make_processor()
    if args.init:
        model = WhisperForConditionalGeneration.from_pretrained(args.init, dtype=torch.float32)
    else:
        model = build_model(processor)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters", flush=True)
    watched, final = list_paths(args)
    sources = load_sources(args.speech, args.sample, np.random.default_rng(settings.seed))
    batches = prefetched(make_batch(sources, processor, settings, step) for step in range(settings.steps))
    task = Task(losses, partial(word_error_rate, processor=processor), partial(save_processor, processor))
    record = train(model, task, batches, settings, watched, args.out)
    finish(model, task, final, args.out, record)


if __name__ == "__main__":
    main()
