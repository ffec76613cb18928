"""An artifact's figure, copied beside the table, or drawn with fewer pixels where it is too large for that.

python figures.py ARTIFACT FILE
"""

import shutil
import sys
from pathlib import Path

from whisperq import artifact

LARGEST = 300_000  # bytes


def copy(source: Path, place: Path, stem: str = "") -> None:
    """An artifact's first PNG whose name begins so. Raises InputError where its files are not as its manifest says."""
    made = artifact.load(source)
    picture = source / next(n for n in sorted(made.manifest["files"]) if n.endswith(".png") and n.startswith(stem))
    if picture.stat().st_size <= LARGEST:
        shutil.copyfile(picture, place)
        return
    from PIL import Image

    with Image.open(picture) as image:
        image.thumbnail((image.width // 2, image.height // 2))
        image.convert("P", palette=Image.Palette.ADAPTIVE).save(place, optimize=True)


if __name__ == "__main__":
    copy(*map(Path, sys.argv[1:]))
