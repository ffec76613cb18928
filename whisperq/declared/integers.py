"""Steps that turn a model into integers, and that say what each part of it costs."""

from whisperq.declaration import DATA, MODEL, QUANTIZED, TRAIN, VALIDATION, Declaration, InputFlag, of_model
from whisperq.options import CalibrateConfig, QuantizeConfig, SensitivityConfig
from whisperq.training_options import MixedPrecisionConfig

CALIBRATION = InputFlag("calibration", "Calibration folder; default: calibration/ of the run folder.")
SENSITIVITY = InputFlag("sensitivity", "What --keep-worst goes by; default: sensitivity/ of the run folder.")
DEVELOPMENT = InputFlag("dev", "List that stablequant measures on; repeatable; default: --data.", many=True)

DECLARED = (
    Declaration(
        "calibrate",
        "Estimate the activation ranges of every site from a few batches.",
        "whisperq calibrate --batches 16",
        (MODEL, DATA, DEVELOPMENT),
        CalibrateConfig,
        resumes=True,
    ),
    Declaration(
        "quantize",
        "Turn weights and activations into static 8-bit integers.",
        "whisperq quantize --recipe gemm",
        (of_model("the one that the calibration was made of"), CALIBRATION, SENSITIVITY),
        QuantizeConfig,
    ),
    Declaration(
        "mixed-precision",
        "Learn how many bits each layer's weights need, with the weights themselves, for a mean of a few bits.",
        "whisperq mixed-precision --target-bits 3.5 --bits 2,3,4,6,8",
        (MODEL, TRAIN, VALIDATION),
        MixedPrecisionConfig,
        resumes=True,
        checkpoints=True,
    ),
    Declaration(
        "sensitivity",
        "Measure what each part costs in integers.",
        "whisperq sensitivity",
        (QUANTIZED, DATA),
        SensitivityConfig,
    ),
)
