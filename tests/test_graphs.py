"""Exported graphs compute what PyTorch computes, in ONNX Runtime and in OpenVINO, and in integers where they say so."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.cpu import needs_vnni
from support.exported import (
    CPU,
    difference,
    exported,
    float_folder,
    opened,
    pytorch_logits,
    quantized_folder,
    step_logits,
)
from support.int8_folders import distance
from support.tiny import END, GATED, PROMPT, decoder_ids, digits, features, gated_model

from whisperq.errors import InputError, UsageError
from whisperq.runtime.decoding import Rules, greedy
from whisperq.runtime.open import open_model

pytestmark = pytest.mark.slow

ENGINES = ("onnx", "openvino")
FLOAT_MODELS = [
    *({"gate": gate} for gate in (*GATED, "none")),
    {"gate": "headwise", "cross_gate": False, "activation_function": "relu"},
    {"gate": "elementwise", "gate_init": 0.25, "encoder_attention_heads": 4, "decoder_layers": 1},
]
ATTENTION = "attention's products are float"


@pytest.mark.parametrize("options", FLOAT_MODELS, ids=lambda o: "-".join(map(str, o.values())))
def test_float_graphs_compute_pytorchs_logits(options, tmp_path):
    folder = float_folder(gated_model(**options), tmp_path / "model")
    expected, out = pytorch_logits(folder), exported(folder)
    for name in ENGINES:
        torch.testing.assert_close(step_logits(opened(out, name)), expected, atol=1e-4, rtol=1e-4)


def test_an_untied_projection_is_its_own(tmp_path):
    model = gated_model(tie_word_embeddings=False)
    with torch.no_grad():
        model.proj_out.weight = torch.nn.Parameter(-0.5 * model.model.decoder.embed_tokens.weight)
    folder = float_folder(model, tmp_path / "model")
    torch.testing.assert_close(step_logits(opened(exported(folder), "onnx")), pytorch_logits(folder))


QUANTIZED_MODELS = [
    *({"gate": gate} for gate in (*GATED, "none")),
    {"bits": 6},
    {"bits": 4},
    {"encoder_only": True},
    {"exclude": ["proj_out", "enc.conv1", "enc.0.fc1:weight"]},
    {"exclude": ["dec.norm", "enc.conv2:input", "enc.1.attn_norm", "dec.*.cross", "enc.*.gate:weight"]},
]


@pytest.mark.parametrize("options", QUANTIZED_MODELS, ids=lambda o: str(next(iter(o.values()))))
def test_quantized_graphs_compute_the_emulated_logits(options, tmp_path):
    options = dict(options)
    model = gated_model(options.pop("gate", "headwise"))
    floats = pytorch_logits(float_folder(model, tmp_path / "float"), batch=9)
    folder = quantized_folder(model, tmp_path / "model", **options)
    expected, out = pytorch_logits(folder, batch=9), exported(folder)
    for name in ENGINES:
        found = step_logits(opened(out, name), batch=9)
        # A sum in another order moves a code now and then, and with it the logits of its utterance; a wrong grid would
        # be as far as the floats are, in all.
        assert distance(found, expected) < min(0.01, 0.2 * difference(floats, expected)), name
        assert (found.argmax(-1) == expected.argmax(-1)).all(dim=0).sum() > 4


@pytest.mark.parametrize("name", ENGINES)
def test_tokens_at_once_are_tokens_one_by_one(name, tmp_path):
    """Later tokens are hidden, also from several new ones that follow a past."""
    runtime = opened(exported(quantized_folder(gated_model(), tmp_path / "model")), name)
    prompt, following = torch.tensor([PROMPT] * 2), decoder_ids(2, 4)
    states = [runtime.encode(features(2)) for _ in range(2)]
    for state in states:
        runtime.decode_step(prompt, state)
    at_once = runtime.decode_step(following, states[0])
    for token in following.split(1, dim=1):
        one_by_one = runtime.decode_step(token, states[1])
    torch.testing.assert_close(at_once, one_by_one)
    torch.testing.assert_close(*(runtime.decode_step(prompt[:, :1], state) for state in states))


@pytest.mark.parametrize("name", ENGINES)
def test_two_recordings_can_be_decoded_by_turns(name, tmp_path):
    runtime = opened(exported(float_folder(gated_model(), tmp_path / "model")), name)
    alone = [step_logits(runtime, seed=seed) for seed in (0, 1)]
    states = [runtime.encode(features(3, seed)) for seed in (0, 1)]
    for step, tokens in enumerate((torch.tensor([PROMPT] * 3), *decoder_ids(3, 5, 0).split(1, dim=1))):
        torch.testing.assert_close(runtime.decode_step(tokens, states[0]), alone[0][step])
        if step == 0:
            torch.testing.assert_close(runtime.decode_step(tokens, states[1]), alone[1][0])


@pytest.mark.parametrize("name", ENGINES)
def test_products_are_integers_in_the_executed_graph(name, tmp_path):
    if name == "openvino":
        needs_vnni()  # whose products are in float without
    exclude = ["enc.0.fc2", "dec.1.cross.v_proj", "enc.1.mlp_norm", "enc.conv1"]
    excluded = {"enc.0.fc2", "dec.1.cross.v_proj", "enc.1.fc1", "enc.conv1"}
    layers = [f"enc.{i}.{c}" for i in (0, 1) for c in ("q_proj", "k_proj", "v_proj", "gate", "out_proj", "fc1", "fc2")]
    layers += [f"dec.{layer.removeprefix('enc.')}" for layer in layers]
    layers += [f"dec.{i}.cross.{c}" for i in (0, 1) for c in ("q_proj", "k_proj", "v_proj", "gate", "out_proj")]
    layers += ["enc.conv1", "enc.conv2", "proj_out"]
    blocks = ("enc.0", "enc.1", "dec.0", "dec.1", "dec.0.cross", "dec.1.cross")
    folder = quantized_folder(gated_model(), tmp_path / "model", exclude=exclude)
    products = opened(exported(folder), name).products()
    assert set(products.integer) == set(layers) - excluded
    attention = {f"{block}.{product}" for block in blocks for product in ("scores", "context")}
    assert products.floating == dict.fromkeys(excluded, "--exclude") | dict.fromkeys(attention, ATTENTION)


@pytest.mark.parametrize("name", ENGINES)
def test_what_an_engine_runs_in_float_is_told(name, tmp_path):
    """An export that claims integers of a float graph is not believed."""
    out = exported(float_folder(gated_model(gate="none"), tmp_path / "model"))
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["results"] |= {"integer_products": ["enc.0.fc1", "enc.7.fc1"], "float_products": {}}
    (out / "manifest.json").write_text(json.dumps(manifest))
    products = opened(out, name).products()
    assert products.integer == ()
    assert products.floating["enc.0.fc1"].startswith("run in float as ")
    assert products.floating["enc.7.fc1"] == "not found in the executed graph"


@pytest.mark.parametrize("name", ENGINES)
def test_a_gate_of_two_layers_is_no_integer_product(name, tmp_path):
    products = opened(exported(quantized_folder(gated_model("mlp"), tmp_path / "model")), name).products()
    gates = {a for a in products.floating if a.endswith(".gate")}
    assert len(gates) == 6 and not any(a.endswith(".gate") for a in products.integer)


# What a consumer knows of the layout: names, dtypes, and which output becomes which input.
BARE = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime

folder, inputs = Path(sys.argv[1]), np.load(sys.argv[2])
load = lambda name: onnxruntime.InferenceSession(folder / "onnx" / f"{name}.onnx", providers=["CPUExecutionProvider"])
encoder, decoder, with_past = map(load, ("encoder_model", "decoder_model", "decoder_with_past_model"))
config = json.loads((folder / "config.json").read_text())
hidden = encoder.run(["last_hidden_state"], {"input_features": inputs["features"].astype(np.float32)})[0]
ids, done, past = inputs["prompt"].astype(np.int64), np.zeros(len(hidden), bool), {}
for _ in range(int(inputs["steps"])):
    feed = {"input_ids": ids[:, -1:], **past} if past else {"input_ids": ids, "encoder_hidden_states": hidden}
    session = with_past if past else decoder
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feed)))
    best = outputs.pop("logits")[:, -1].argmax(-1)
    past.update({name.replace("present", "past_key_values"): value for name, value in outputs.items()})
    best[done] = config["eos_token_id"]
    done |= best == config["eos_token_id"]
    ids = np.concatenate([ids, best[:, None]], axis=1)
assert "whisperq" not in sys.modules and "torch" not in sys.modules
print(json.dumps(ids[:, inputs["prompt"].shape[1]:].tolist()))
"""


def test_bare_onnx_runtime_writes_the_emulated_tokens(tmp_path):
    needs_vnni()  # bare, its sums saturate without
    model = gated_model("elementwise", seed=1)
    model.model.decoder.embed_tokens.weight.data[END] *= 6  # an end that is written now and then
    folder = quantized_folder(model, tmp_path / "model")
    rules = Rules(PROMPT, END, digits.MAX_TOKENS)
    with open_model(folder, CPU) as emulated:
        expected = greedy(emulated.runtime, features(3), rules)
    steps = digits.MAX_TOKENS - len(PROMPT)
    np.savez(tmp_path / "in.npz", features=features(3).numpy(), prompt=np.array([PROMPT] * 3), steps=steps)
    command = [sys.executable, "-c", BARE, str(exported(folder)), str(tmp_path / "in.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [row[: row.index(END)] if END in row else row for row in json.loads(done.stdout)]
    assert found == expected
    assert len({len(row) for row in found}) == 3 and max(map(len, found)) < steps


@pytest.mark.parametrize("name", ENGINES)
def test_transcripts_are_the_emulated_ones(name, copied_run, invoke):
    texts = {}
    for runtime in ("emulated", name):
        out = copied_run / "eval" / runtime
        result = invoke("eval", "--run", copied_run, "--model", "gemm-w8a8", "--runtime", runtime, "--out", out,
                        "--attention-dtype", "auto" if runtime == "emulated" else "float32")  # fmt: skip
        assert result.exit_code == 0, result.output
        texts[runtime] = [json.loads(line)["pred_text"] for line in open(out / "hypotheses" / "digits.jsonl")]
    assert texts[name] == texts["emulated"]
    results = json.loads((copied_run / "eval" / name / "manifest.json").read_text())["results"]
    assert results["runtime"] == name and results["integer_products"] == 41
    assert "41 of 53 in integers" in result.output.replace("\n", " ")


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("damage", ["cut", "text", "gone"])
def test_damaged_graphs_are_refused(name, damage, tmp_path):
    out = exported(float_folder(gated_model(), tmp_path / "model"))
    path = out / "onnx" / "encoder_model.onnx"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:5000] if damage == "cut" else b"no graph at all")
    with pytest.raises(InputError, match="lacks onnx/encoder_model.onnx" if damage == "gone" else "cannot read"):
        opened(out, name).encode(features(1))


@pytest.mark.parametrize("name", ENGINES)
def test_features_of_another_model_are_refused(name, tmp_path):
    runtime = opened(exported(float_folder(gated_model(), tmp_path / "model")), name)
    with pytest.raises(InputError, match=r"takes features \(80, 100\), not \(128, 100\)"):
        runtime.encode(torch.zeros(1, 128, 100))


def test_attention_formats(tmp_path):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU multiplies no bf16")
    folder = float_folder(gated_model(), tmp_path / "model")
    expected, out = pytorch_logits(folder), exported(folder)
    with pytest.raises(UsageError, match="leave --attention-dtype at auto"):
        opened(out, "onnx", "bfloat16")
    coarse = difference(step_logits(opened(out, "openvino", "bfloat16")), expected)
    assert difference(step_logits(opened(out, "openvino", "float32")), expected) < 1e-5 < coarse < 0.05


@pytest.mark.parametrize("name, library", [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_engine_is_one_sentence(name, library, tmp_path, monkeypatch):
    out = exported(float_folder(gated_model(), tmp_path / "model"))
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=rf'--runtime {name} needs .*: pip install "whisperq\[{name}\]"$'):
        opened(out, name)
