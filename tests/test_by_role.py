"""Rows by role and largest values, against numpy and scipy on the rows themselves."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis

from whisperq.artifact import plain
from whisperq.data.roles import frame_roles, token_roles
from whisperq.scoring.by_role import SiteStatistics, largest_values, summarize_roles
from whisperq.scoring.massive import KEPT, LargestValues
from whisperq.scoring.outliers import TensorStatistics, summarize
from whisperq.scoring.shares import role_shares
from whisperq.steps.outliers import report


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 161, 16_000, 63_999, 64_000, 70_000])
@pytest.mark.parametrize("rows", [200, 400])
def test_speech_rows_are_those_that_begin_within_the_recording(samples, rows):
    """At the stride of the site: 320 samples of a window of 64,000 behind both convolutions, 160 before the second."""
    found = frame_roles(samples, 64_000, rows)
    assert list(found["speech"]) == [row for row in range(rows) if row * 64_000 // rows < samples]
    assert [*found["speech"], *found["padding"]] == list(range(rows))


@pytest.mark.parametrize("rows, tokens", [(3, 0), (4, 0), (9, 5)])
def test_text_follows_the_prompt(rows, tokens):
    found = token_roles(4, rows)
    assert [*found["prompt"], *found["tokens"]] == list(range(rows)) and len(found["tokens"]) == tokens


UTTERANCES = [  # of which one has no padding, one no speech, and one is constant in its speech
    (_normal(50, 12), frame_roles(20, 50, 50)),
    (_normal(50, 12, seed=1) ** 5, frame_roles(50, 50, 50)),
    (_normal(50, 12, seed=2) ** 3 - 2, frame_roles(0, 50, 50)),
    (torch.cat([torch.ones(8, 12), _normal(42, 12, seed=3) ** 7]), frame_roles(8, 50, 50)),
]


def _observed(chosen=UTTERANCES, massive: bool = True) -> SiteStatistics:
    site = SiteStatistics(massive)
    for number, (x, roles) in enumerate(chosen):
        site.update(x, roles, f"u{number}")
    return site


@pytest.mark.parametrize("role", ["speech", "padding"])
def test_figures_of_a_role_are_those_of_its_rows_alone(role):
    rows = [x[r[role].start : r[role].stop].double().numpy() for x, r in UTTERANCES if r[role]]
    found = _observed().as_dict()["roles"][role]
    varied = [x.ravel() for x in rows if x.std()]
    assert found["kurtosis"] == pytest.approx(np.mean([kurtosis(x, fisher=False) for x in varied]), rel=1e-9)
    assert found["inf_norm"] == pytest.approx(np.mean([np.abs(x).max() for x in rows]), rel=1e-6)
    assert found["outliers"] == sum((np.abs(x - x.mean()) > 6 * x.std()).sum() for x in varied)
    assert (found["utterances"], found["values"]) == (len(rows), sum(x.size for x in rows))
    assert "outliers_per_dimension" not in found


def test_the_whole_tensors_figures_stay_what_they_were():
    alone = TensorStatistics()
    for x, _ in UTTERANCES:
        alone.update(x)
    found = _observed().as_dict()
    assert {k: v for k, v in found.items() if k not in ("roles", "massive")} == alone.as_dict()
    assert "massive" not in _observed(massive=False).as_dict()


def test_a_role_without_rows_is_none():
    assert list(_observed(UTTERANCES[1:2]).as_dict()["roles"]) == ["speech"]
    summary = summarize_roles({"a": _observed(UTTERANCES[1:2]).as_dict(), "b": _observed(UTTERANCES[:1]).as_dict()})
    assert (summary["speech"]["sites"], summary["padding"]["sites"]) == (["a", "b"], ["b"])


def test_the_largest_values_of_each_role_are_found_in_one_pass():
    peaks = _observed().as_dict()["massive"]["peaks"]
    for role in ("speech", "padding"):
        expected = {}
        for number, (x, roles) in enumerate(UTTERANCES):
            for row in roles[role]:
                for channel, value in enumerate(x[row].tolist()):
                    if abs(value) > abs(expected.get(channel, (0,))[0]):
                        expected[channel] = value, channel, row, f"u{number}"
        largest = sorted(expected.values(), key=lambda found: -abs(found[0]))[:KEPT]
        mine = [p for p in peaks if p["role"] == role]
        assert [(p["value"], p["channel"], p["position"], p["utterance"]) for p in mine] == largest
    leading = [int(x.abs().max(dim=0).values.argmax()) for x, _ in UTTERANCES]
    assert all(p["largest_in"] == leading.count(p["channel"]) for p in peaks)


def test_ratios_are_those_of_the_utterances_whole_tensor():
    peak = _observed().as_dict()["massive"]["peaks"][0]
    x = next(x for x, _ in UTTERANCES if peak["value"] in x.tolist()[peak["position"]]).double()
    assert peak["deviation"] == pytest.approx(float(np.std(x.numpy())))
    assert peak["times_deviation"] == pytest.approx(abs(peak["value"]) / np.std(x.numpy()))
    ranked = np.sort(np.abs(x.numpy()).ravel())
    assert peak["median"] == pytest.approx(ranked[(len(ranked) - 1) // 2])  # of an even number the lower middle one
    assert peak["times_median"] == pytest.approx(abs(peak["value"]) / peak["median"])


@pytest.mark.parametrize(
    "value, median, massive",
    [(101, 0.1, True), (-101, 0.1, True), (100, 0.05, False), (101, 0.2, False), (500, 0.5, True), (499, 0.5, False)],
)
def test_massive_is_above_a_hundred_and_a_thousand_medians(value, median, massive):
    """Sun et al. 2024, section 2."""
    site = SiteStatistics(massive=True)
    for number in range(3):
        x = torch.full((30, 6), median)
        x[::2] *= -1
        if number != 1:
            x[17, 4] = value
        else:
            x[0, 2] = 2 * median
        site.update(x, {"speech": range(10), "padding": range(10, 30)}, f"u{number}")
    found = site.as_dict()["massive"]
    first = found["peaks"][0]
    assert (first["channel"], first["position"], first["role"], first["value"]) == (4, 17, "padding", value)
    assert (first["massive"], first["massive_in"], first["largest_in"]) == (massive, 2 * massive, 2)
    assert found["massive_channels"] == {"speech": [], "padding": [4] * massive}
    summary = largest_values({"s": site.as_dict()}, rows=20)
    assert (summary["massive_sites"], summary["massive_channels"], summary["sites"]) == (massive, massive, 1)
    assert summary["largest"][0] == {"site": "s", **first}


def test_a_median_of_zero_gives_no_number():
    x = torch.zeros(20, 3)
    x[2, 1] = 500.0
    site = SiteStatistics(massive=True)
    site.update(x, {"speech": range(20)}, "u")
    first = site.as_dict()["massive"]["peaks"][0]
    assert first["massive"] and math.isinf(first["times_median"])


@pytest.mark.parametrize("world", [2, 3, 9])
def test_merged_shards_are_what_one_process_finds(world):
    many = [*UTTERANCES, *((x * s, roles) for s in (0.5, 100.0) for x, roles in UTTERANCES)]
    together, shards = _observed(many), [SiteStatistics(massive=True) for _ in range(world)]
    for number, (x, roles) in enumerate(many):
        shards[number % world].update(x, roles, f"u{number}")
    first = shards[-1]
    for other in shards[:-1]:
        first.merge(other)
    assert first.as_dict() == together.as_dict()
    assert any(first.as_dict()["massive"]["massive_channels"].values())


def test_what_is_kept_does_not_grow():
    largest = LargestValues()
    for seed in range(40):
        largest.update(_normal(30, 500, seed=seed), {"speech": range(30)}, f"u{seed}")
    assert len(largest.peaks["speech"]) == KEPT and len(json.dumps(largest.as_dict())) < 4_000


def test_shares_are_sums_over_keys_averaged_over_queries():
    probs = np.random.default_rng(0).dirichlet(np.ones(7), size=(3, 5)).astype(np.float32)
    queries, keys = {"prompt": range(2), "tokens": range(2, 5)}, {"speech": range(6), "padding": range(6, 7)}
    found = role_shares(probs, queries, keys)
    assert found["tokens"]["padding"] == pytest.approx(float(probs[:, 2:, 6].mean()), rel=1e-6)
    assert found["prompt"]["speech"] == pytest.approx(1 - float(probs[:, :2, 6].mean()), rel=1e-6)
    assert role_shares(probs, {"prompt": range(5), "tokens": range(0)}, keys).keys() == {"prompt"}


TWO_DEPTHS = {  # sites of either model, those of the figures, and what is said
    "the last layers": (["dec.1.out_proj"], ["dec.3.out_proj"], ["dec.1.out_proj, dec.3.out_proj"], ""),
    "the same": (["enc.0.fc2"], ["enc.0.fc2"], ["enc.0.fc2"], ""),
    "some": (
        ["enc.0.fc2", "enc.1.fc2"],
        ["enc.0.fc2"],
        ["enc.0.fc2"],
        "the sites that both models have, 1 of 2 and 1",
    ),
    "none": (["enc.0.fc2"], ["enc.1.fc2", "enc.2.fc2"], [], "the sites that both models have, 0 of 1 and 2"),
}


@pytest.mark.parametrize("first, second, sites, told", TWO_DEPTHS.values(), ids=TWO_DEPTHS)
def test_models_of_different_depth_stand_side_by_side(first, second, sites, told, tmp_path, capsys):
    statistics = iter(_normal(40, 12, seed=seed) ** (3 + seed) for seed in range(4))
    found = {
        role: _measured({site: next(statistics) for site in own})
        for role, own in (("model", first), ("compare", second))
    }
    made = report(found, {"model": "student", "compare": "teacher"}, 0, tmp_path)
    drawn = {name for name in made["figures"] if name.startswith("outliers-") and name.endswith(".svg")}
    assert drawn == {f"outliers-{site.replace(', ', '-')}.svg" for site in sites}
    for name in drawn:
        text = (tmp_path / name).read_text()
        for title, role, own in (("student", "model", first), ("teacher", "compare", second)):
            kurtosis_of = found[role]["statistics"][own[0]]["kurtosis"]
            assert title in text and f"kurtosis {kurtosis_of:,.1f}" in text
    said = " ".join(capsys.readouterr().err.split())
    assert told in said and bool(told) == ("notice" in said)


def _measured(tensors: dict[str, torch.Tensor]) -> dict:
    """What `outliers` measures of a model, of one utterance."""
    figures = {}
    for address, x in tensors.items():
        site = SiteStatistics()
        site.update(x, {"tokens": range(len(x))}, "u")
        figures[address] = site.as_dict()
    summary = summarize(figures) | {"roles": summarize_roles(figures)}
    return plain({"summary": summary, "statistics": figures, "skipped": 0, "padding": "masked"})
