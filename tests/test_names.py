"""Text from outside is never markup, never moves a cursor, and never names a file as it likes."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import Invoke, run_command, write_lines
from markdown_it import MarkdownIt
from rich.console import Console
from support.reported import Transcribed, create, write_evaluation, write_teacher, write_training

from whisperq.jobs import progress
from whisperq.names import file_name, printable
from whisperq.report.figures import new_figure, save, style
from whisperq.report.foreign_figures import is_harmless
from whisperq.results.cells import markdown, markdown_code, markdown_text, table

HOSTILE = {
    "markup that closes nothing": "[/b]x",
    "markup": "[bold red]x[/]",
    "an escape sequence": "\x1b[31mred\x1b]0;title\x07",
    "lines": "a\nb\r\tc",
    "direction": "gpj\u202e.exe\u2066",
    "unseen": "a\u200bb\ufeff",
    "HTML": "<script>alert(1)</script>&lt;",
    "Markdown": "![x](http://x.example/y.png) `a` | b",
    "formula": "$\\frac{$ 100 %",
    "half of a pair": "\ud800",
    "a C1 control": "\x9b31m",
    "long": "n" * 300,
    "long and wide": "\u6f22" * 200,
    "a backslash at the end": "x\\",
    "a dot": ".x",
    "an option": "-rf",
}
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_shown_has_nothing_raw(text: str) -> None:
    assert not RAW.search(printable(text)) and "\n" not in printable(text)
    console = Console(width=400, record=True, force_terminal=True)
    shown = table(f"of {text}", text, "x")
    shown.add_row(text, text)
    with console.capture() as captured:
        console.print(shown)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", captured.get())  # the console's own bold and italics
    assert not RAW.search(plain) and "".join(printable(text).split()) in "".join(plain.split()) or len(text) > 99
    lines = markdown([shown]).splitlines()
    assert len(lines) == 5 and not re.search(r"(?<!\\)[<>\[`]", lines[4]) and markdown_code(text).count("\n") == 0


def test_what_can_be_seen_stays() -> None:
    for text in (
        "caf\u00e9",
        "\u0928\u092e\u0938\u094d\u0924\u0947",
        "\u0645\u06cc\u200c\u062e\u0648\u0627",
        "a\u00a0b\u3000c",
    ):
        assert printable(text) == text


MARKED = (
    "enc.*.out_proj,dec.*.out_proj", "x*y*z", "__init__ clean", "a __b c__ d", "dev_clean _x_ y", "a__b", "~~old~~",
    "a\\|b", "C:\\new\\*", "[x](y) `z`", "&amp; <b> | #", "caf\u00e9_\u4e2d_ _", "dev_clean_2",
)  # fmt: skip


@pytest.mark.parametrize("text", MARKED)
def test_names_are_no_markup_where_markdown_is_rendered(text: str) -> None:
    shown = table(text, text, "b")
    shown.add_row(text, "q")
    page = f"{markdown([shown])}\n*{markdown_text(text)}*\n"
    rendered = MarkdownIt().enable(["table", "strikethrough"]).render(page)
    elements = ElementTree.fromstring(f"<page>{rendered}</page>")
    assert ["".join(cell.itertext()) for cell in elements.iter() if cell.tag in ("th", "td")] == [text, "b", text, "q"]
    assert [(p[0].tag, p[0].text, len(p[0])) for p in elements.iter("p")] == [("strong", text, 0), ("em", text, 0)]


@pytest.mark.parametrize("text", [*HOSTILE.values(), "", "..", "a/b", "a\\b", "C:", "~"])
def test_names_of_files(text: str) -> None:
    name = file_name(text)
    assert re.fullmatch(r"\w[\w.+-]*", name) and len(name.encode()) <= 80 and name not in (".", "..")
    assert name != text and name == file_name(text)


def test_names_that_need_no_change_and_names_that_would_be_alike() -> None:
    for text in ("clean", "test-other_2.5+x", "caf\u00e9", "\u4e2d\u6587"):
        assert file_name(text) == text
    alike = ["a b", "a-b", "a\nb", "a\x1bb", "cafe\u0301", "caf\u00e9", "n" * 300, "n" * 301, ".x", "x"]
    assert len(set(map(file_name, alike))) == len(alike)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHISPERQ_RUN", raising=False)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in HOSTILE.values() if not {"/", "\ud800"} & set(n)])
def test_sets_of_any_name_are_scored_scored_again_and_compared(name: str, here: Path, invoke: Invoke) -> None:
    write_lines(here / "x.jsonl", [{"id": name, "text": "a b", "pred_text": "a c"}])
    commands = ("score --out s --", f"{name}=x.jsonl"), ("score --out t --", "s"), ("compare s t",), ("show t",)
    for options, *arguments in commands:
        done = invoke(*options.split(), *arguments)
        assert done.exit_code == 0, done.stderr
        assert not RAW.search(done.stdout) and not RAW.search(done.stderr)
    again = json.loads((here / "t" / "manifest.json").read_text())["results"]["sets"]
    assert again[name]["wer"] == 0.5
    for file in here.rglob("*"):
        assert re.fullmatch(r"[\w.+-]+", file.name) and len(file.name.encode()) < 120


def test_evaluations_of_earlier_versions_keep_their_files(here: Path, invoke: Invoke) -> None:
    """Their files had the sets' own names."""
    write_lines(here / "x.jsonl", [{"id": "1", "text": "a b", "pred_text": "a c"}])
    assert invoke("score", "my set=x.jsonl", "--out", "s").exit_code == 0
    manifest = json.loads((here / "s" / "manifest.json").read_text())
    new = f"hypotheses/{file_name('my set')}.jsonl"
    (here / "s" / new).rename(here / "s" / "hypotheses" / "my set.jsonl")
    manifest["files"]["hypotheses/my set.jsonl"] = manifest["files"].pop(new)
    (here / "s" / "manifest.json").write_text(json.dumps(manifest))
    assert invoke("compare", "s", "s").exit_code == 0 and invoke("score", "s", "--out", "t").exit_code == 0


def test_a_manifest_names_no_file_outside_its_folder(here: Path, invoke: Invoke) -> None:
    write_lines(here / "x.jsonl", [{"id": "1", "text": "a b", "pred_text": "a c"}])
    assert invoke("score", "x.jsonl", "--out", "s").exit_code == 0
    manifest = json.loads((here / "s" / "manifest.json").read_text())
    manifest["results"]["sets"]["../../x"] = manifest["results"]["sets"].pop("x")
    (here / "s" / "manifest.json").write_text(json.dumps(manifest))
    done = invoke("compare", "s", "s", "--out", "deep/down/c")
    assert done.exit_code == 3 and not (here / "deep").exists()


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_manifest_of_any_text_is_shown_and_reported(text: str, here: Path) -> None:
    text = text.encode(errors="replace").decode()
    write_training(here / "run", write_teacher(here / "teacher"), 3, "none")
    shutil.rmtree(here / "run" / "distilled")
    inputs = {f"data {text}": here / "teacher", "model": here / "run" / "student"}
    with create(here / "run" / "attention" / "a" / "b", "attention", "plot-attention", inputs, layer=text) as draft:
        draft.results |= {
            "block": text,
            "heads": [0],
            "utterance": text,
            "text": text,
            "figures": [text, f"{text}.svg"],
        }
    for arguments in (("show", "run/attention/a/b"), ("report", "run", "--title", text)):
        done = run_command(*arguments)
        assert done.exit_code == 0, done.stderr
        assert not RAW.search(done.stdout) and not RAW.search(done.stderr)
    page, markdown = (Path(f"report/report.{kind}").read_text() for kind in ("html", "md"))
    assert not RAW.search(page) and not RAW.search(markdown)
    assert "<script" not in page and "<script" not in markdown and "![x](http" not in markdown


def drawing(content: str = "", attributes: str = "") -> bytes:
    head = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<?xml version="1.0"?>\n<svg {head} {attributes}><g>{content}</g></svg>'.encode()


HARMFUL = {
    "a script": drawing("<script>alert(1)</script>"),
    "a handler": drawing(attributes='onload="alert(1)"'),
    "a handler in capitals": drawing('<path OnClick="alert(1)"/>'),
    "a page": drawing("<foreignObject><p xmlns='http://www.w3.org/1999/xhtml'>x</p></foreignObject>"),
    "a link": drawing('<a xlink:href="javascript:alert(1)"><text>x</text></a>'),
    "what lies elsewhere": drawing('<image xlink:href="http://x.example/y.png"/>'),
    "an SVG inside": drawing('<image href="data:image/svg+xml;base64,AAAA"/>'),
    "a style from elsewhere": drawing("<style>@import url(http://x.example/y.css);</style>"),
    "a fill from elsewhere": drawing('<path style="fill: URL( http://x.example/y)"/>'),
    "a style sheet": b'<?xml-stylesheet href="http://x.example/y.css"?>' + drawing().partition(b"\n")[2],
    "an entity": b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + drawing().partition(b"\n")[2],
    "an animation": drawing('<set attributeName="href" to="javascript:alert(1)"/>'),
    "no XML": b"<svg><g></svg>",
}


@pytest.mark.parametrize("svg", HARMFUL.values(), ids=HARMFUL)
def test_what_is_more_than_a_drawing(svg: bytes) -> None:
    assert not is_harmless(svg)


def test_our_own_drawings_are_drawings(tmp_path: Path) -> None:
    with style():
        figure = new_figure(2, 2)
        axes = figure.subplots()
        axes.imshow([[0, 1], [2, 3]]), axes.plot([0, 1], label="<a> & [b]"), axes.fill_between([0, 1], 1, hatch="//")
        axes.legend()
        save(figure, tmp_path, "x")
    assert is_harmless((tmp_path / "x.svg").read_bytes()) and is_harmless(drawing('<use href="#a"/>'))


def test_a_report_copies_drawings_alone(here: Path) -> None:
    write_training(here / "run", write_teacher(here / "teacher"), 3, "none")
    (here / "secret.png").write_bytes(b"secret")
    inputs = {"model": here / "run" / "distilled"}
    with create(here / "run" / "attention" / "a" / "b", "attention", "plot-attention", inputs) as draft:
        (draft.folder / "bad.svg").write_bytes(HARMFUL["a script"])
        (draft.folder / "good.svg").write_bytes(drawing())
        (draft.folder / "link.png").symlink_to(here / "secret.png")
        draft.results["figures"] = ["bad.svg", "good.svg", "link.png", "../../../../secret.png"]
    done = run_command("report", "run")
    assert done.exit_code == 0 and "bad.svg, link.png, ../../../../secret.png left out" in done.stderr
    copied = [p.name for p in (here / "report" / "figures").iterdir() if "good" in p.name or "bad" in p.name]
    assert (
        len(copied) == 1
        and not list((here / "report").rglob("*secret*"))
        and "c2VjcmV0" not in (here / "report" / "report.html").read_text()
    )


def test_paths_and_versions_are_text_as_well(here: Path) -> None:
    write_training(here / "run", write_teacher(here / "teacher"), 3, "none")
    manifest = json.loads((here / "run" / "calibration" / "manifest.json").read_text())
    manifest["inputs"]["model"] = {"path": "<b>path</b>", "sha256": 64 * "a"}
    manifest["whisperq"] = "<b>version</b>"
    (here / "run" / "calibration" / "manifest.json").write_text(json.dumps(manifest))
    assert run_command("report", "run").exit_code == 0
    for kind in ("html", "md"):
        text = (here / "report" / f"report.{kind}").read_text()
        assert not re.search("<b>(path|version)", text) and "path" in text


def test_a_progress_bar_names_a_set_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True, width=200)
    monkeypatch.setattr(progress, "console", console)
    with console.capture() as captured:
        for _ in progress.track([1], 1, "eval [/b]\x1b[2J", "sets"):
            pass
    assert "eval [/b]\\x1b[2J" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", captured.get())


def test_a_report_of_hostile_sets(here: Path) -> None:
    write_training(here / "run", write_teacher(here / "teacher"), 3, "none")
    sets = [
        Transcribed(HOSTILE[kind], 3)
        for kind in ("markup that closes nothing", "formula", "an escape sequence", "long")
    ]
    write_evaluation(here / "run", here / "run" / "distilled", "e", [s for s in sets if "/" not in s.name], "float")
    done = run_command("report", "run", "--json")
    assert done.exit_code == 0 and not json.loads(done.stdout)["results"]["unreadable"], done.stderr
    assert not RAW.search(Path("report/report.html").read_text())
    assert all(not RAW.search(f.read_text()) for f in Path("report/figures").glob("*.svg"))


def test_errors_say_what_was_typed_and_no_more(here: Path, invoke: Invoke) -> None:
    for arguments in (
        ("score", "\x1b[31m[/b]"),
        ("eval", "--model", "n" * 300),
        ("score", "n" * 300),
        ("show", "n" * 300),
    ):
        done = invoke(*arguments)
        assert done.exit_code in (2, 3) and not RAW.search(done.stderr), done.stderr
