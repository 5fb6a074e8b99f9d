"""Shared constants: never in the way of a gradient, and not without end."""

from __future__ import annotations

import torch

from sparse_backend import constants


def test_a_number_that_changes_at_every_step_is_not_kept_for_ever() -> None:
    like = torch.zeros(2, dtype=torch.float64)
    for step in range(3 * constants._MOST_KNOWN):
        assert float(constants.number(step / 3, like)) == step / 3
    constants.number(float("nan"), like)
    assert len(constants._known) <= constants._MOST_KNOWN


def test_zeros_take_no_memory_and_keep_the_kind() -> None:
    like = torch.zeros(2, 3, dtype=torch.float64)
    zeros = constants.zeros(like, (1000, 1000))
    assert zeros.shape == (1000, 1000) and zeros.dtype == torch.float64 and not zeros.any()
    assert zeros.untyped_storage().nbytes() == 8
    assert not constants.zeros(torch.nn.Parameter(like), (4,)).requires_grad
