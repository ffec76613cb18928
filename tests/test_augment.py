"""SpecAugment: what is blanked out, and what decides it."""

import numpy as np
import torch
from support.feeding import make_feed, run, write_noises

from whisperq.training.augment import FRAMES, MASKS, SHARE, draw, spec_augment


def stretches(mask: np.ndarray) -> list[int]:
    """Lengths of the stretches of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


def test_two_stretches_of_either_axis_are_zero_and_nothing_else_changes():
    features = torch.rand(64, 80, 3000) + 1
    augmented = spec_augment(features, [2500] * 64, [(0, 7, i) for i in range(64)])
    zero = augmented == 0
    assert torch.equal(augmented[~zero], features[~zero])
    for one in zero.numpy():
        bins, frames = one.all(axis=1), one.all(axis=0)
        assert np.array_equal(one, bins[:, None] | frames[None, :])
        assert len(stretches(bins)) <= MASKS and len(stretches(frames)) <= MASKS
        assert sum(stretches(bins)) <= 2 * 27 and sum(stretches(frames)) <= 2 * FRAMES
        assert not frames[2500:].any()  # padding needs no mask
    lengths = [sum(stretches(one.all(axis=1))) for one in zero.numpy()]
    assert 20 < np.mean(lengths) < 30  # two times the mean of 0..27, less what overlaps


def test_more_bins_are_masked_where_there_are_more_and_little_of_a_short_recording():
    drawn = [draw(128, 50, (0, 0, i)) for i in range(200)]
    assert max(end - start for bins, _ in drawn for start, end in bins) == 43  # 27 of 80
    assert max(end - start for _, frames in drawn for start, end in frames) == SHARE * 50
    assert draw(80, 0, (0, 0, 0))[1] == [(0, 0), (0, 0)]


def test_masks_are_a_function_of_seed_step_and_index():
    features = torch.ones(2, 80, 1000)
    both = spec_augment(features, [900, 900], [(3, 5, 0), (3, 5, 1)])
    assert torch.equal(spec_augment(features[:1], [900], [(3, 5, 1)])[0], both[1])
    assert not torch.equal(both[0], both[1])
    for other in ((4, 5, 0), (3, 6, 0)):
        assert not torch.equal(spec_augment(features[:1], [900], [other])[0], both[0])


def test_the_feed_masks_every_window_anew(tmp_path):
    path = write_noises(tmp_path, 4)
    plain, masked = (run(make_feed(path, spec_augment=s), 2) for s in (False, True))
    for before, after in zip(plain, masked, strict=True):
        changed = before.batches[0].features != after.batches[0].features
        assert (changed.float().mean(dim=(1, 2)) < 0.8).all() and changed.any()
        assert not after.batches[0].features[changed].any()
    assert not torch.equal(masked[0].batches[0].features == 0, masked[1].batches[0].features == 0)
