"""Compiled programs give what the functions give, masks included, be they small or large."""

import pytest
import torch

from rewardzoo.compiled import Loop, Program


@pytest.mark.parametrize("rows", [3, 300])  # masks of 128 rows and more travel as bytes
def test_a_program_returns_masks_as_bools(rows):
    x = torch.randn(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = x.roll(1) > 0

    def function(x, given):
        high = x > 0.5
        return {"high": high, "again": high, "both": high & given, "given": given, "x": (x + 1,)}

    out = Program(function)(x, given)
    expected = function(x, given)
    for name in ("high", "again", "both", "given"):
        assert out[name].dtype == torch.bool
        assert torch.equal(out[name], expected[name]), name
    assert not expected["both"].all()
    torch.testing.assert_close(out["x"], expected["x"])


@pytest.mark.parametrize("rows", [3, 300])
def test_a_loop_carries_and_returns_masks_as_bools(rows):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, rows, generator=generator)
    chosen = torch.randn(rows, generator=generator) > 0
    seen = torch.zeros(rows, dtype=torch.bool)
    going = torch.ones((), dtype=torch.bool)

    def step(carry, xs, fixed):
        seen, chosen, going, total = carry
        seen = seen | (xs[0] > 1.0) & chosen
        out = [seen, xs[0] > fixed[0]]
        return [seen, chosen, going & seen.any(), total + torch.where(seen, xs[0], 0.0)], out

    carry = [seen, chosen, going, torch.zeros(rows)]
    fixed = [torch.tensor(0.25)]
    loop = Loop(step)
    for _ in range(2):  # the first call compiles
        after, out = loop(carry, [x], fixed)
        by_hand, rows_out = carry, []
        for row in x:
            by_hand, given = step(by_hand, [row], fixed)
            rows_out.append(given)
        for got, expected in zip(after, by_hand, strict=True):
            assert got.dtype == expected.dtype
            torch.testing.assert_close(got, expected)
        for i, got in enumerate(out):
            assert got.dtype == torch.bool
            assert torch.equal(got, torch.stack([given[i] for given in rows_out]))
        carry = after
