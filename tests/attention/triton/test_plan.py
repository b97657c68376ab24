"""Every token is in one span, or has all its tiles."""

import pytest
import torch

from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.attention.autograd import OperatorContext
from pyg_atomenc.attention.triton.plan import plan_of

MIXES = {
    "all sizes": (1, 2, 15, 16, 0, 17, 33, 64, 65, 0, 300),
    "small": (3, 1, 14, 9),
    "medium": (20, 30, 40),
    "large": (500, 129, 128, 127),
    "around a limit": tuple(range(60, 70)),
    "empty": (0, 0, 3),
    "many": tuple(int(17 * i) % 23 for i in range(400)),
}
CLASSES = [(16, 32, 64), (16, 32), (16,)]


def make(sizes):
    sizes = torch.tensor(sizes)
    index = torch.arange(len(sizes)).repeat_interleave(sizes)
    layout = TokenLayout.from_index(index[torch.randperm(len(index))], len(sizes))
    return OperatorContext.from_layout(layout, 0.0)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("tile", [16, 64])
@pytest.mark.parametrize("name", MIXES)
def test_every_token_once(name, tile, classes):
    sizes = MIXES[name]
    plan = plan_of(make(sizes), classes, tile)
    order = plan.token_order.tolist()
    taken = []
    for span in plan.spans:
        tokens = order[span.first : span.first + span.count]
        # No program runs for nothing, and none is wider than it needs.
        below = [size for size in classes if size < span.size]
        least = max(below, default=-1)
        assert tokens and all(least < sizes[t] <= span.size for t in tokens)
        taken += tokens
    if plan.tiles is not None:
        tiles = plan.tiles
        found = list(zip(tiles.token.tolist(), tiles.first.tolist(), strict=True))
        for token in dict.fromkeys(tiles.token.tolist()):
            mine = [i for i, (t, _) in enumerate(found) if t == token]
            assert mine == list(range(mine[0], mine[0] + -(-sizes[token] // tile)))
            assert {found[i][1] for i in mine} == {mine[0]}
            taken.append(token)
        assert tiles.rows == tiles.count * tile
    assert sorted(taken) == list(range(len(sizes)))


def test_no_launch_for_what_is_not_there():
    plan = plan_of(make((3, 4, 5)), (16, 32, 64), 64)
    assert [(span.size, span.count) for span in plan.spans] == [(16, 3)]
    assert plan.tiles is None


def test_a_plan_is_made_once_for_every_way_to_cut():
    context = make((3, 20))
    assert plan_of(context, (16,), 64) is plan_of(context, (16,), 64)
    assert plan_of(context, (32,), 64) is not plan_of(context, (16,), 64)
