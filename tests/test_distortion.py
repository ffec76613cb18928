"""Signal-to-noise ratio and KL of logits against worked examples and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from whisperq.scoring.distortion import Distortion

RANDOM = np.random.default_rng(0)


def distortion(exact, found) -> Distortion:
    result = Distortion()
    result.update(torch.as_tensor(exact), torch.as_tensor(found))
    return result


def test_a_tenth_of_noise_is_twenty_decibels():
    z = RANDOM.normal(size=(7, 11))
    assert distortion(z, 1.1 * z).snr_db == pytest.approx(20)
    assert distortion(z, z + 1).snr_db == pytest.approx(10 * math.log10((z**2).sum() / z.size))


def test_kl_is_scipys_and_blind_to_what_softmax_is_blind_to():
    z, z_q = RANDOM.normal(size=(2, 9, 13)) * 4
    p, p_q = softmax(z, axis=1), softmax(z_q, axis=1)
    assert distortion(z, z_q).kl == pytest.approx(rel_entr(p, p_q).sum() / 9)
    assert distortion(z, z + 5).kl == pytest.approx(0, abs=1e-12)


def test_small_divergences_of_single_precision_are_not_lost():
    z = RANDOM.normal(size=(50, 30)).astype(np.float32)
    z_q = (z + 1e-4 * RANDOM.normal(size=z.shape)).astype(np.float32)
    p, p_q = (softmax(x.astype(np.float64), axis=1) for x in (z, z_q))
    assert distortion(z, z_q).kl == pytest.approx(rel_entr(p, p_q).sum() / 50, rel=1e-6)


def test_batches_and_chunks_add_up(monkeypatch):
    z, z_q = RANDOM.normal(size=(2, 20, 8))
    whole = distortion(z, z_q)
    monkeypatch.setattr("whisperq.scoring.distortion._CHUNK", 24)
    parts = distortion(z[:13], z_q[:13])
    parts.update(torch.as_tensor(z[13:]), torch.as_tensor(z_q[13:]))
    assert (parts.tokens, parts.snr_db, parts.kl) == (20, pytest.approx(whole.snr_db), pytest.approx(whole.kl))


def test_nothing_differs_and_nothing_was_seen():
    z = RANDOM.normal(size=(3, 4))
    assert (distortion(z, z).snr_db, distortion(z, z).kl) == (math.inf, 0)
    assert math.isnan(Distortion().snr_db) and math.isnan(Distortion().kl)
    with pytest.raises(ValueError, match="same tokens"):
        distortion(z, z[:2])
