"""Transcripts of faster-whisper (CTranslate2, INT8), as its users run it: its own defaults, but greedy as whisperq is.

python peer.py FOLDER OUT FILE...        # OUT/NAME.txt for each
"""

import sys
from pathlib import Path

from faster_whisper import WhisperModel


def main(folder: Path, out: Path, files: list[Path]) -> None:
    model = WhisperModel(str(folder), device="cpu", compute_type="int8", local_files_only=True)
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        if (out / f"{file.stem}.txt").exists():
            continue
        segments, _ = model.transcribe(str(file), language="en", beam_size=1, best_of=1)
        text = " ".join(segment.text.strip() for segment in segments)
        (out / f"{file.stem}.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    folder, out, *files = map(Path, sys.argv[1:])
    main(folder, out, files)
