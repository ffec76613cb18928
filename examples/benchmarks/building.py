"""The models that are compared, made once each: random weights, then every contender's own files.

    python building.py PRODUCT SIZE WORK

writes WORK/SIZE/PRODUCT, in a process of its own so that its memory is free again before anything is measured.
The stock twin has the gated model's weights and no gates. Ranges come from random features: they decide
no time, but keep activations from saturating.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from building_ctc import CTC_SIZES, CtcSize, build_ctc, build_ctc_bf16

VOCABULARY, MEL_BINS, FRAMES = 51865, 80, 3000  # of Whisper; 3,000 feature frames are 30 s
PROMPT = (50258, 50259, 50359, 50363)  # start, English, transcribe, no times
END = 50257
WINDOW_S = 30
DIGITS = Path(__file__).parents[1] / "digits"


@dataclass(frozen=True)
class Size:
    encoder_layers: int
    decoder_layers: int
    width: int
    heads: int

    family = "whisper"

    def config(self) -> dict:
        """The keyword arguments of a Whisper configuration."""
        return {
            "vocab_size": VOCABULARY, "num_mel_bins": MEL_BINS, "d_model": self.width,
            "encoder_layers": self.encoder_layers, "decoder_layers": self.decoder_layers,
            "encoder_attention_heads": self.heads, "decoder_attention_heads": self.heads,
            "encoder_ffn_dim": 4 * self.width, "decoder_ffn_dim": 4 * self.width,
        }  # fmt: skip

    def listen(self, model, seed: int) -> None:
        """Run the network once, on noise."""
        import torch

        tokens = torch.randint(VOCABULARY, (1, 16), generator=torch.Generator().manual_seed(0))
        model(input_features=random_features(1, seed), decoder_input_ids=tokens)


WHISPER_SIZES = {"small": Size(12, 12, 768, 12), "large-16-2": Size(16, 2, 1280, 20), "tiny": Size(2, 2, 64, 2)}
SIZES: dict[str, Size | CtcSize] = {**WHISPER_SIZES, **CTC_SIZES}
HIDDEN = ("tiny", "wav2vec2-tiny")  # they measure nothing; they test this benchmark


def random_features(batch: int, seed: int = 0):
    """Noise in the place of log-mel features: float32 (batch, MEL_BINS, FRAMES)."""
    import torch

    return torch.randn(batch, MEL_BINS, FRAMES, generator=torch.Generator().manual_seed(seed))


def build_gated(folder: Path, size: Size, parts: dict[str, Path]) -> None:
    """Float32 with headwise gates that differ from one another, and some tokenizer, which exporting wants."""
    import torch

    from whisperq.models.gated_whisper import Gate, GatedWhisperConfig, GatedWhisperForConditionalGeneration
    from whisperq.models.loading import save_model

    sys.path.append(str(DIGITS))
    from make_tokenizer import make_processor

    torch.manual_seed(0)
    model = GatedWhisperForConditionalGeneration(GatedWhisperConfig(gate="headwise", **size.config()))
    for gate in (m for m in model.modules() if isinstance(m, Gate)):
        torch.nn.init.normal_(gate.linear.weight, std=model.config.init_std)
    save_model(model, make_processor(WINDOW_S), folder)


def build_stock(folder: Path, size: Size, parts: dict[str, Path]) -> None:
    """The gated model's weights without the gates, as transformers' own class."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    from whisperq.models.loading import load_model

    weights = load_model(parts["gated"], torch.float32, "cpu").state_dict()
    twin = WhisperForConditionalGeneration(WhisperConfig(**size.config()))
    twin.load_state_dict({name: value for name, value in weights.items() if ".gate." not in name})
    twin.save_pretrained(folder)


def build_bf16(folder: Path, size: Size, parts: dict[str, Path]) -> None:
    import torch
    from transformers import WhisperForConditionalGeneration

    WhisperForConditionalGeneration.from_pretrained(parts["stock"], dtype=torch.bfloat16).save_pretrained(folder)


def build_quantized(folder: Path, size: Size | CtcSize, parts: dict[str, Path]) -> None:
    """What `whisperq quantize --recipe gemm` writes of the only part, from the ranges of two batches of noise."""
    import torch

    from whisperq import artifact
    from whisperq.models.loading import load_model
    from whisperq.models.sites import model_sites, watch
    from whisperq.ptq.checkpoint import Quantization, quantize_weight, save_quantization
    from whisperq.ptq.plan import make_plan
    from whisperq.quant.wide import ActivationRange

    (source,) = parts.values()
    model = load_model(source, torch.float32, "cpu")
    plan, ranges = make_plan(model, "gemm"), {}

    def watcher(address: str) -> Callable:
        def see(x: torch.Tensor) -> None:
            low, high = ranges.get(address, (0.0, 0.0))
            ranges[address] = (min(low, float(x.min())), max(high, float(x.max())))

        return see

    with watch(model, model_sites(model), {a: watcher(a) for a in plan.activations}), torch.inference_mode():
        for seed in (1, 2):
            size.listen(model, seed)
    weights = {w.parameter: quantize_weight(model, w, 8, symmetric=True, per_channel=True) for w in plan.weights}
    with artifact.create(folder, "quantized", "quantize", {}, {"model": artifact.reference(source)}) as draft:
        covered = {address: ActivationRange(ends) for address, ends in ranges.items()}
        grids = {address: one.grid() for address, one in covered.items()}
        save_quantization(model, Quantization(weights, grids), covered, draft.folder)
        for file in (f for f in source.iterdir() if f.suffix in (".json", ".txt") and f.name != artifact.MANIFEST):
            shutil.copy(file, draft.folder)
        floats = {"float_weights": plan.float_weights, "float_activations": plan.float_activations}
        draft.results |= {"recipe": "gemm", **floats}


def build_exported(folder: Path, size: Size | CtcSize, parts: dict[str, Path]) -> None:
    """The artifact of `whisperq export`: what the onnx and openvino runtimes read."""
    from whisperq.options import ExportConfig
    from whisperq.settings import Context
    from whisperq.steps.export import export

    export(parts["quantized"], folder, ExportConfig(), Context(device="cpu"))


def build_ctranslate2(folder: Path, size: Size, parts: dict[str, Path]) -> None:
    """INT8 weights, as `ct2-transformers-converter --quantization int8`; the twin has no tokenizer, hence by hand."""
    from ctranslate2.converters.transformers import WhisperLoader
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(parts["stock"])
    model.generation_config.update(
        suppress_tokens=[], begin_suppress_tokens=[], alignment_heads=[[0, 0]], lang_to_id={"<|en|>": PROMPT[1]}
    )
    special = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
    names = dict(zip(PROMPT, special, strict=True)) | {END: "<|endoftext|>", PROMPT[-1] - 1: "<|nocaptions|>"}
    loader = WhisperLoader()
    spec = loader.get_model_spec(model)
    loader.set_config(spec.config, model, None)
    loader.set_vocabulary(spec, [names.get(i, f"token{i}") for i in range(VOCABULARY)])
    spec.validate()
    spec.optimize(quantization="int8")
    folder.mkdir()
    spec.save(str(folder))


def build_nncf(folder: Path, size: Size, parts: dict[str, Path]) -> None:
    from nncf_peer import convert

    folder.mkdir()
    convert(parts["stock"], folder, [random_features(1, seed) for seed in (1, 2)], PROMPT)


Builder = Callable[[Path, Size, dict[str, Path]], None]
Products = dict[str, tuple[tuple[str, ...], Builder]]  # the products that each is made from, and what makes it

WHISPER_PRODUCTS: Products = {
    "gated": ((), build_gated),
    "stock": (("gated",), build_stock),
    "stock-bf16": (("stock",), build_bf16),
    "quantized": (("gated",), build_quantized),
    "quantized-plain": (("stock",), build_quantized),  # to tell what the gates cost
    "exported": (("quantized",), build_exported),
    "ctranslate2": (("stock",), build_ctranslate2),
    "nncf": (("stock",), build_nncf),
}
CTC_PRODUCTS: Products = {
    "stock": ((), build_ctc),
    "stock-bf16": (("stock",), build_ctc_bf16),
    "quantized": (("stock",), build_quantized),
    "exported": (("quantized",), build_exported),
}
PRODUCTS = {"whisper": WHISPER_PRODUCTS, "ctc": CTC_PRODUCTS}


def build(product: str, size: str, work: Path) -> Path:
    """The product's folder; where it is not there yet, it is made. Raises CalledProcessError, its reason printed."""
    folder = work / size / product
    if not folder.exists():
        subprocess.run([sys.executable, __file__, product, size, str(work)], check=True, stdout=sys.stderr)
    return folder


def make(product: str, size: str, work: Path) -> Path:
    """Make a product, before it what it is made from; a folder appears whole or not at all."""
    folder = work / size / product
    if not folder.exists():
        needed, builder = PRODUCTS[SIZES[size].family][product]
        parts = {name: make(name, size, work) for name in needed}
        print(f"building {size} {product}", flush=True)
        draft = work / size / f"{product}.partial"
        shutil.rmtree(draft, ignore_errors=True)
        draft.parent.mkdir(parents=True, exist_ok=True)
        builder(draft, SIZES[size], parts)
        draft.rename(folder)
    return folder


if __name__ == "__main__":
    make(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
