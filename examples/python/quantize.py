"""A Whisper in INT8 and a transcript from it, as in a notebook: no data of yours needed, minutes on two cores.

    MODEL=openai/whisper-base python examples/python/quantize.py [RECORDING ...]

The ranges come from the synthesised speech that ships with whisperq; `data=` of calibrate names your own recordings.
"""

import os
import sys
from pathlib import Path

import whisperq as wq

MODEL = os.environ.get("MODEL", "openai/whisper-base")  # a Hub id or a folder
OUT = Path(os.environ.get("OUT", "int8"))
SPEECH = sorted(Path(wq.__file__).parent.glob("data/calibration/**/*.opus"))  # 64 recordings

ranges = wq.calibrate(MODEL, batches=4, out=OUT / "ranges")
small = wq.quantize(MODEL, ranges, recipe="gemm", out=OUT / "model")
print(f"{small.path}: {small.results['bytes'] / small.results['float_bytes']:.2f} of its source's bytes")

try:  # a choice that there is not: the message names those that there are
    wq.quantize(MODEL, ranges, recipe="fp8", out=OUT / "other")
except wq.UsageError as error:
    print(error)

for recording in sys.argv[1:] or SPEECH[:2]:
    print(wq.transcribe(recording, model=small, language="en"))
