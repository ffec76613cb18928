"""Small wav2vec 2.0 and HuBERT models with random weights, in every variant that is published, and their processor."""

import json
from pathlib import Path

import torch
from torch import nn
from transformers import (
    HubertConfig,
    HubertForCTC,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

torch.set_num_threads(1)  # such small tensors only lose by being shared

LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"EFGHINORSTUVWXZ")
RATE = 16_000
# Published models of each kind: base-960h; large-960h-lv60-self; hubert-large-ls960-ft; what HuBERT can have besides.
VARIANTS = {
    "wav2vec2-base": {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False},
    "wav2vec2-large": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "hubert-large": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "hubert-other": {
        "feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False,
        "feat_proj_layer_norm": False, "conv_pos_batch_norm": True, "num_conv_pos_embeddings": 7,
    },
}  # fmt: skip
SIZES = {
    "vocab_size": len(LETTERS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 48, "conv_dim": (16, 16, 24), "conv_kernel": (10, 3, 2), "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "layerdrop": 0.0, "ctc_zero_infinity": True,
}  # fmt: skip


def stock_model(variant: str = "wav2vec2-base", seed: int = 0, **changes) -> PreTrainedModel:
    """transformers' own network in evaluation mode, its weights large enough that every part matters."""
    kind, config = (HubertForCTC, HubertConfig) if variant.startswith("hubert") else (Wav2Vec2ForCTC, Wav2Vec2Config)
    torch.manual_seed(seed)
    model = kind(config(**SIZES | VARIANTS[variant] | changes))
    scramble(model, seed)
    return model.eval()


@torch.no_grad()
def scramble(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("original0"):  # the weight norm's lengths
            parameter.copy_(1 + 0.2 * noise)
        elif parameter.dim() == 1:
            parameter.copy_((1 + 0.2 * noise) if "norm.weight" in name else 0.1 * noise)
        else:
            parameter.copy_(noise * 1.5 * parameter[0].numel() ** -0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))


def make_processor(folder: Path, normalize: bool = True) -> Wav2Vec2Processor:
    """Upper-case letters of the digits' names, `|` between words, <pad> as the blank."""
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({letter: i for i, letter in enumerate(LETTERS)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary))
    extractor = Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=RATE, padding_value=0.0, do_normalize=normalize, return_attention_mask=False
    )
    return Wav2Vec2Processor(extractor, tokenizer)


def save_checkpoint(folder: Path, variant: str = "wav2vec2-base", seed: int = 0, **changes) -> PreTrainedModel:
    """A folder as the Hub has it, and the network that it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    model = stock_model(variant, seed, **changes)
    model.save_pretrained(folder)
    make_processor(folder).save_pretrained(folder)
    return model
