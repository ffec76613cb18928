"""A shallower student whose layers are copies of its teacher's, gates open."""

from pathlib import Path

import torch

from whisperq import artifact
from whisperq.errors import InputError, UsageError
from whisperq.kinds.models import Parameters, Student
from whisperq.models.gated_whisper import GatedWhisperConfig, GatedWhisperForConditionalGeneration
from whisperq.models.layers import copied_layers, parse_indices
from whisperq.models.loading import (
    compute_device,
    load_whisper,
    load_whisper_processor,
    local_folder,
    parameter_count,
    save_model,
)
from whisperq.ptq.descriptions import descriptions
from whisperq.settings import Context
from whisperq.training_options import InitStudentConfig

NEAREST = 1e-6  # to 0 and to 1, as pi_init of a model may be


def init_student(teacher: str | Path, out: Path, config: InitStudentConfig, context: Context) -> artifact.Artifact:
    """Copy the teacher's layers into a student and save it with processor and generation config.

    Raises InputError (no Whisper teacher) and UsageError (layers that it does not have).
    """
    compute_device(context.device)  # nothing is computed on one, but one that is not there was asked for in vain
    folder = local_folder(teacher)
    inputs = {"teacher": artifact.reference(folder)}
    with artifact.create(out, "student", "init-student", context.settings(config), inputs, context.force) as draft:
        descriptions(folder)  # what they hold is saved anew, so that a link out of the folder is refused here as well
        source = load_whisper(folder, torch.float32, "cpu")
        processor = load_whisper_processor(folder)
        check_gates(source.config, config)
        layer_map = choose_layers(source.config, config)
        torch.manual_seed(context.seed)  # the mlp gate's hidden layer starts at random
        student = copy_layers(source, student_config(source.config, config, layer_map), layer_map)
        check_on_silence(student)
        save_model(student, processor, draft.folder)
        results: Student = {
            "layer_map": {"encoder": layer_map["encoder"], "decoder": layer_map["decoder"]},
            "gate": config.gate,
            "parameters": counts(student),
            "teacher_parameters": counts(source),
        }
        draft.results |= results
    return artifact.load(out)


def check_gates(teacher: GatedWhisperConfig, config: InitStudentConfig) -> None:
    """A gated teacher's gates are copied with its layers: raises UsageError where they would change meaning."""
    if teacher.gate == "none":
        return
    for name in ("gate", "gate_init", "cross_gate"):
        ours, theirs = getattr(config, name), getattr(teacher, name)
        if ours != theirs:
            raise UsageError(f"the teacher is gated with {name} {theirs}, so that its student cannot have {ours}")


def choose_layers(teacher: GatedWhisperConfig, config: InitStudentConfig) -> dict[str, list[int]]:
    """Student layer -> teacher layer, for both stacks."""
    if config.encoder_indices is not None:
        encoder = parse_indices(config.encoder_indices, teacher.encoder_layers, "encoder")
    else:
        encoder = copied_layers(teacher.encoder_layers, config.layers, config.copy_rule, "encoder")
    if config.decoder_indices is not None:
        decoder = parse_indices(config.decoder_indices, teacher.decoder_layers, "decoder")
    else:
        decoder = copied_layers(teacher.decoder_layers, config.decoder_layers, "spread", "decoder")
    return {"encoder": encoder, "decoder": decoder}


def student_config(
    teacher: GatedWhisperConfig, config: InitStudentConfig, layer_map: dict[str, list[int]]
) -> GatedWhisperConfig:
    if not NEAREST <= config.gate_init <= 1 - NEAREST:
        raise UsageError(f"--gate-init must lie between {NEAREST} and 1 - {NEAREST}, not {config.gate_init}")
    changes = {
        "encoder_layers": len(layer_map["encoder"]),
        "decoder_layers": len(layer_map["decoder"]),
        "gate": config.gate,
        "gate_init": config.gate_init,
        "cross_gate": config.cross_gate,
    }
    return GatedWhisperConfig.from_dict({**teacher.to_dict(), **changes})


def copy_layers(
    teacher: GatedWhisperForConditionalGeneration, config: GatedWhisperConfig, layer_map: dict[str, list[int]]
) -> GatedWhisperForConditionalGeneration:
    """The student with the teacher's weights in the chosen layers and everywhere else; gates keep their start."""
    student = GatedWhisperForConditionalGeneration(config)
    old_weights = teacher.state_dict()
    weights = dict(old_weights)
    for part, layers in layer_map.items():
        for i, source in enumerate(layers):
            old, new = f"model.{part}.layers.{source}.", f"model.{part}.layers.{i}."
            weights |= {new + k.removeprefix(old): v for k, v in old_weights.items() if k.startswith(old)}
    own = student.state_dict()
    report = student.load_state_dict({k: v for k, v in weights.items() if k in own}, strict=False)
    if strange := [k for k in report.missing_keys if ".gate." not in k]:
        raise InputError(f"the teacher lacks the weight {strange[0]}")
    student.generation_config = teacher.generation_config
    if hasattr(student.generation_config, "alignment_heads"):
        del student.generation_config.alignment_heads  # they name heads of layers that the student lacks
    return student.eval()


@torch.inference_mode()
def check_on_silence(student: GatedWhisperForConditionalGeneration) -> None:
    """A forward pass over a silent window: raises InputError where the logits are not finite."""
    config = student.config
    features = torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions)
    start = torch.tensor([[config.decoder_start_token_id]])
    if not student(input_features=features, decoder_input_ids=start).logits.isfinite().all():
        raise InputError("the student's logits on silence are not finite: its teacher's weights are damaged")


def counts(model: torch.nn.Module) -> Parameters:
    return {"total": parameter_count(model), "trainable": parameter_count(model, trainable=True)}
