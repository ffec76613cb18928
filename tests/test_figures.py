"""Figures: the numbers drawn, what the files hold, labels that neither overlap nor get cut off."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from whisperq.report import figures
from whisperq.report.attention import (
    AttentionPicture,
    Axis,
    grid_figure,
    head_figure,
    plot_grid,
    plot_head,
)
from whisperq.report.figures import kurtosis_figure, outlier_figure, plot_outliers

TIME = Axis("time (s)", None, 0.02)
PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


def _statistics(counts: dict[int, int], size: int = 160, kurtosis: float | None = 12.5) -> dict:
    total = sum(counts.values())
    order = sorted(counts, key=lambda d: -counts[d])[:10]
    return {
        "outliers": total,
        "values": 10_000,
        "outliers_per_dimension": [counts.get(d, 0) for d in range(size)],
        "top_dimensions": [[d, counts[d], counts[d] / total] for d in order],
        "kurtosis": kurtosis,
        "inf_norm": 66.8,
        "peak": 70.0,
        "utterances": 3,
    }


def _picture(queries: Axis, keys: Axis, heads: int = 2, frames: int = 50, seconds: float = 0.5) -> AttentionPicture:
    random = np.random.default_rng(0)
    rows, columns = (len(a.labels) if a.labels else frames for a in (queries, keys))
    probs = random.dirichlet(np.full(columns, 0.1), size=(heads, rows))
    values = random.normal(size=(heads, columns, 8))
    return AttentionPicture("dec.1", probs, values, queries, keys, "digits/7", seconds)


def _tokens(*words: str) -> Axis:
    return Axis("token", PROMPT + words)


def _bars(figure: Figure, panel: int = 0) -> dict[int, float]:
    """Dimension -> height of what is drawn."""
    bars = figure.axes[panel].patches
    return {round(b.get_x() + b.get_width() / 2): b.get_height() for b in bars}


def _svg_texts(path: Path) -> list[str]:
    return [e.text for e in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def _overlaps(figure: Figure, texts: list[matplotlib.text.Text]) -> list[tuple[str, str]]:
    figure.canvas.draw()
    shown = [t for t in texts if t.get_text() and t.get_visible()]
    boxes = [matplotlib.text.Text.get_window_extent(t) for t in shown]  # not an annotation's line
    pairs = itertools.combinations(range(len(shown)), 2)
    return [(shown[i].get_text(), shown[j].get_text()) for i, j in pairs if boxes[i].overlaps(boxes[j])]


def test_bars_are_each_dimensions_share_of_its_own_models_outliers() -> None:
    one, two = _statistics({7: 30, 150: 10}), _statistics({819: 1, 1054: 3}, size=1280)
    figure = outlier_figure("dec.1.out_proj", {"plain": one, "gated": two})
    assert _bars(figure) == {7: 75.0, 150: 25.0}
    assert _bars(figure, 1) == {819: 25.0, 1054: 75.0}
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    texts = " ".join(t.get_text() for t in figure.axes[0].texts)
    assert "kurtosis 12.5" in texts and "infinity norm 66.8" in texts and "40 outliers, 100.0 %" in texts


def test_only_the_top_dimensions_are_highlighted() -> None:
    figure = outlier_figure("s", {"m": _statistics({d: 100 - d for d in range(0, 60, 5)})})
    colours = {round(b.get_x() + b.get_width() / 2): b.get_facecolor() for b in figure.axes[0].patches}
    highlighted = matplotlib.colors.to_rgba(figures.HIGHLIGHT)
    assert [d for d, colour in sorted(colours.items()) if colour == highlighted] == list(range(0, 50, 5))
    assert len(colours) == 12


@pytest.mark.parametrize("top", [range(640, 650), range(10), range(1270, 1280), (819, 822, 1054, 0, 1279)])
def test_crowded_labels_do_not_overlap(top: Sequence[int]) -> None:
    statistics = _statistics({d: 50 + 7 * (d % 5) for d in top}, size=1280)
    figure = outlier_figure("s", {"a": statistics, "b": statistics})
    labels = [t for t in figure.axes[0].texts if t.get_text().isdigit()]
    assert len(labels) >= min(5, len(top))
    assert not _overlaps(figure, labels)


def test_outlier_files(tmp_path: Path) -> None:
    models = {"a $1 model": {"dec.1.fc1:input": _statistics({7: 30, 150: 10})}}
    names = plot_outliers(models, ["dec.1.fc1:input"], tmp_path)
    assert names == ["outliers-dec.1.fc1-input.png", "outliers-dec.1.fc1-input.svg"]
    height, width = imread(tmp_path / names[0]).shape[:2]
    assert 600 < height < 1000 < width < 1400
    assert {"7", "150", "a $1 model", "Outliers at dec.1.fc1:input"} <= set(_svg_texts(tmp_path / names[1]))


def test_no_outliers(tmp_path: Path) -> None:
    models = {"a": {"s": _statistics({7: 1})}, "b": {"s": _statistics({}, kurtosis=None)}}
    names = plot_outliers(models, ["s"], tmp_path)
    texts = _svg_texts(tmp_path / names[1])
    assert "no value beyond six standard deviations" in texts
    assert any("kurtosis undefined" in t for t in texts)


@pytest.mark.slow
def test_of_many_sites_the_four_of_highest_kurtosis_are_drawn(tmp_path: Path) -> None:
    sites = [f"enc.{i}.out_proj" for i in range(13)]
    one = {s: _statistics({1: 2}, 16, kurtosis=3.0 + i) for i, s in enumerate(sites)}
    two = one | {sites[0]: _statistics({1: 2}, 16, kurtosis=500.0), sites[12]: _statistics({}, 16, None)}
    names = plot_outliers({"one": one, "two": two}, sites, tmp_path)
    stems = [f"outliers-enc.{i}.out_proj" for i in (0, 12, 11, 10)] + ["kurtosis"]
    assert names == [f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")]
    assert sorted(names) == sorted(p.name for p in tmp_path.iterdir())


def test_kurtosis_overview() -> None:
    sites = ["enc.0.out_proj", "dec.1.out_proj"]
    one = {s: _statistics({1: 2}, kurtosis=k) for s, k in zip(sites, (4.0, 900.0), strict=True)}
    two = {s: _statistics({1: 2}, kurtosis=k) for s, k in zip(sites, (2.5, None), strict=True)}
    axes = kurtosis_figure({"one": one, "two": two}, sites).axes[0]
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert widths[0] == [4.0, 900.0] and widths[1][0] == 2.5 and np.isnan(widths[1][1])
    assert [t.get_text() for t in axes.get_yticklabels()] == sites
    assert list(axes.lines[0].get_xdata()) == [3, 3]
    assert "undefined" in [t.get_text() for t in axes.texts]


def test_the_three_panels_hold_p_v_and_their_product() -> None:
    picture = _picture(_tokens("we"), _tokens("we"))
    panels = [a.images[0] for a in head_figure(picture, 1).axes if a.images]
    expected = [picture.probs[1], picture.values[1], picture.probs[1] @ picture.values[1]]
    for image, matrix in zip(panels, expected, strict=True):
        np.testing.assert_array_equal(image.get_array(), matrix)
    limit = np.abs(picture.values[1]).max()
    assert [p.get_clim() for p in panels] == [(0, 1), (-limit, limit), (-limit, limit)]


def test_the_grid_holds_every_head_on_one_scale() -> None:
    picture = _picture(_tokens("we"), TIME, heads=7)
    panels = [a.images[0] for a in grid_figure(picture).axes if a.images]
    np.testing.assert_array_equal([p.get_array() for p in panels], picture.probs)
    assert len({p.get_clim() for p in panels}) == 1


def test_a_peak_of_one_frame_survives_more_frames_than_dots() -> None:
    picture = _picture(_tokens("we"), TIME, frames=1501)
    probs = np.zeros_like(picture.probs)
    probs[..., [700, 1500]] = 0.4
    panel = grid_figure(replace(picture, probs=probs)).axes[0]
    drawn = np.asarray(panel.images[0].get_array())
    assert drawn.shape[1] <= 400 and drawn[:, -1].min() == 0.4 and (drawn == 0.4).sum() == 2 * 5
    assert panel.get_xlim() == pytest.approx((0, 30.02))


def test_the_end_of_the_recording_is_marked_on_time_axes_only() -> None:
    axes = [a for a in head_figure(_picture(_tokens("we"), TIME), 0).axes if a.images]
    assert [len(a.lines) for a in axes] == [1, 1, 0]
    assert list(axes[0].lines[0].get_xdata()) == [0.5, 0.5] == list(axes[1].lines[0].get_ydata())
    encoder = [a for a in head_figure(_picture(TIME, TIME), 0).axes if a.images]
    assert [len(a.lines) for a in encoder] == [2, 1, 1]
    whole = [a for a in head_figure(_picture(TIME, TIME, seconds=1.0), 0).axes if a.images]
    assert not any(a.lines for a in whole)


def test_the_prompts_end_is_marked_and_where_probability_goes_is_said() -> None:
    tokens = replace(_tokens("we", "go"), roles={"prompt": range(4), "tokens": range(4, 6)})
    picture = _picture(tokens, tokens)
    figure = head_figure(picture, 1)
    lines = [a.lines for a in figure.axes if a.images]
    assert [len(some) for some in lines] == [2, 1, 1] and list(lines[0][0].get_xdata()) == [3.5, 3.5]
    share = 100 * picture.probs[1, 4:, :4].sum(-1).mean()
    said = " ".join(t.get_text() for t in figure.texts)
    assert f"from tokens {share:.1f} % to prompt" in said and "the prompt ends, text begins" in said


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 41, 96, 150])
def test_token_labels_do_not_overlap(count: int) -> None:
    tokens = _tokens(*("\u2423one"[i % 4] for i in range(count)))
    for figure in (head_figure(_picture(tokens, tokens), 0), grid_figure(_picture(tokens, tokens))):
        axes = figure.axes[0]
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert labels[0].get_text() == PROMPT[0]
            assert not _overlaps(figure, labels)


def test_attention_files(tmp_path: Path) -> None:
    words = ("\u2423$5", "a&b", "\n", "\u4f60")
    picture = _picture(_tokens(*words), _tokens(*words))
    names = plot_head(picture, 1, tmp_path) + plot_grid(picture, tmp_path)
    stems = ("attention-dec.1-head1", "attention-dec.1-all-heads")
    assert names == [f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")]
    for name in names[1::2]:
        assert {*PROMPT, "\u2423$5", "a&b", "\\n", "\u4f60"} <= set(_svg_texts(tmp_path / name))
    picture_of_head = imread(tmp_path / names[0])
    assert 500 < picture_of_head.shape[0] < 1500 < picture_of_head.shape[1] < 3500
    edges = picture_of_head[[0, -1]].ravel(), picture_of_head[:, [0, -1]].ravel()
    assert all((edge == 1).all() for edge in edges)  # white: nothing reaches the border


def test_equal_input_gives_equal_files_and_leaves_the_settings_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    picture = _picture(_tokens("we"), TIME)
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        contents.append([(folder / name).read_bytes() for name in plot_head(picture, 0, folder)])
    assert contents[0] == contents[1]
    assert dict(matplotlib.rcParams) == before
