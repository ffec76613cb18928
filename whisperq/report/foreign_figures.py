"""Which figures a report copies from an artifact: files of that artifact that hold a drawing and nothing else.

An SVG can run scripts, load what is elsewhere, and hold a whole page; matplotlib's have none of that.
"""

import re
import xml.etree.ElementTree as xml
from pathlib import Path

TAGS = frozenset(
    "svg metadata RDF Work type date format creator Agent title defs style g path use rect circle ellipse line "
    "polyline polygon clipPath image text tspan pattern linearGradient stop mask symbol marker".split()
)
ELSEWHERE = re.compile(r"@import|url\(\s*['\"]?(?!#)", re.IGNORECASE)


def is_drawing(folder: Path, name: object) -> bool:
    """Whether the artifact in `folder` has this PNG or SVG, itself and not by a link out of it."""
    if not isinstance(name, str) or Path(name).suffix not in (".png", ".svg"):
        return False
    path = (folder / name).resolve()
    if folder.resolve() not in path.parents or not path.is_file():
        return False
    return path.suffix == ".png" or is_harmless(path.read_bytes())


def is_harmless(svg: bytes) -> bool:
    """Known elements alone, no handlers, and no references but into itself or to pixels that it holds."""
    if b"<!ENTITY" in svg or svg.count(b"<?") > svg.lstrip().startswith(b"<?xml "):
        return False
    try:
        elements = list(xml.fromstring(svg).iter())
    except xml.ParseError:
        return False
    return all(map(_is_harmless, elements))


def _is_harmless(element: xml.Element) -> bool:
    if not isinstance(element.tag, str) or _local(element.tag) not in TAGS or ELSEWHERE.search(element.text or ""):
        return False
    for key, value in element.attrib.items():
        name = _local(key).lower()
        inside = value.strip().startswith(("#", "data:image/png"))
        if name.startswith("on") or ELSEWHERE.search(value) or (name in ("href", "src") and not inside):
            return False
    return True


def _local(name: str) -> str:
    return name.rpartition("}")[2]
