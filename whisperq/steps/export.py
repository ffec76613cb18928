"""A model as ONNX graphs in the layout of the Hub: what optimum, transformers.js and the engines themselves load."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from transformers import GenerationConfig

from whisperq import artifact
from whisperq.errors import UsageError
from whisperq.jobs.progress import say, track
from whisperq.kinds.models import Onnx, Quantized
from whisperq.models.families import family_of
from whisperq.models.loading import compute_device, load_processor
from whisperq.options import ExportConfig
from whisperq.preconditions import check_export, dynamic_refusal
from whisperq.ptq.arrays import Stored, open_stored
from whisperq.ptq.checkpoint import PerToken
from whisperq.ptq.descriptions import descriptions, own_file
from whisperq.runtime.onnx.whisper import FOLDER, require
from whisperq.runtime.pipeline import output_of
from whisperq.settings import Context

# Entries of config.json that name our network; the graphs carry the gates, so that to a consumer it is a stock Whisper.
OURS = ("gate", "gate_init", "cross_gate", "auto_map", "custom_pipelines")
ACTIVATIONS = ("gelu", "relu")


def export(model: Path, out: Path, config: ExportConfig, context: Context) -> artifact.Artifact:
    """Write the model's graphs: products of integers where the model is quantized.

    Of a Whisper encoder_model, decoder_model and decoder_with_past_model; of a CTC model the one graph, model.
    Raises UsageError for what graphs of integers cannot express, InputError for a model that cannot be read.
    """
    require("onnx", "onnx", "whisperq export")
    compute_device(context.device)  # as in init-student: one that is not there was asked for in vain
    check_export(model, config.float)
    inputs = {"model": artifact.reference(model)}
    results = quantized_results(model)
    settings = {"float": results is None}  # nothing else decides the graphs
    with artifact.create(out, "onnx", "export", settings, inputs, context.force) as draft:
        descriptions(model)  # as in init-student: no link out of the folder is followed
        stored = open_stored(model)
        check_expressible(model, stored)
        describe(model, stored, draft.folder)
        products = write_graphs(stored, draft.folder / FOLDER)
        integer = [address for address, floats in products.items() if not floats]
        written: Onnx = {
            "recipe": results["recipe"] if results else None,
            "gate": getattr(stored.config, "gate", None),
            "integer_products": integer,
            "float_products": {a: reason(floats, results) for a, floats in products.items() if floats},
            "bytes": {p.name: p.stat().st_size for p in sorted((draft.folder / FOLDER).iterdir())},
        }
        draft.results |= written
    if results and results["cross_cache"] == "int8":
        say("the graphs keep cross-attention's keys and values in float; --runtime int8 keeps them in int8")
    return artifact.load(out)


def quantized_results(model: Path) -> Quantized | None:
    """Results in a quantized model's manifest; None for a float model."""
    if not artifact.is_artifact(model):
        return None
    sealed = artifact.load(model, verify=False)
    return sealed.results if sealed.kind == "quantized" else None


def check_expressible(model: Path, stored: Stored) -> None:
    if any(isinstance(grid, PerToken) for grid in stored.activations.values()):
        raise UsageError(dynamic_refusal(model))
    for function in activation_functions(stored):
        if function not in ACTIVATIONS:
            known = " and ".join(ACTIVATIONS)
            raise UsageError(f"{model} uses the activation function {function}; export knows {known}")


def activation_functions(stored: Stored) -> Sequence[str]:
    return [getattr(stored.config, field) for field in family_of(stored.config).activations]


def write_graphs(stored: Stored, folder: Path) -> dict[str, list[str]]:
    """The files; the products of all, with the weights and sites that keep each from integers."""
    from whisperq.graphs.ctc import write_ctc_graph
    from whisperq.graphs.whisper import write_graph

    writers, family = {"tokens": write_graph, "ctc": write_ctc_graph}, family_of(stored.config)
    output = output_of(stored.config)
    folder.mkdir()
    products: dict[str, list[str]] = {}
    for name in track(output.graphs, len(output.graphs), "export", "graphs"):
        graph, found = writers[family.output](name, stored)
        graph.save(folder / f"{name}.onnx")
        products |= found
    return products


def reason(floats: list[str], results: Quantized | None) -> str:
    """Why a product is float: attention's always are, the others because the model says so of a weight or a site."""
    if floats == ["attention"]:
        return "attention's products are float"
    if results is None:
        return "the model is float"
    known = {**results["float_weights"], **results["float_activations"]}
    other = "weights in groups" if results["group"] else "a layer of it takes in floats"
    return next((known[name] for name in floats if name in known), other)


def describe(model: Path, stored: Stored, folder: Path) -> None:
    """config.json, preprocessor_config.json, the tokenizer and how Whisper generates, at the root."""
    config = json.loads((model / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in OURS} | dict(family_of(stored.config).stock)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    processor = load_processor(model)
    processor.feature_extractor.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    if not output_of(stored.config).generates:
        return
    if (model / "generation_config.json").exists():
        shutil.copyfile(own_file(model, "generation_config.json"), folder / "generation_config.json")
    else:
        GenerationConfig.from_model_config(stored.config).save_pretrained(folder)
    if (model / "normalizer.json").exists():  # the tokenizer's spelling map, which transformers forgets to save
        shutil.copyfile(own_file(model, "normalizer.json"), folder / "normalizer.json")
