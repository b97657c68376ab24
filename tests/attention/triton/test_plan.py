"""Every token is in one span, or has all its tiles."""

from dataclasses import replace

import pytest
import torch

from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.attention.autograd import Setting
from pyg_atomenc.attention.triton.plan import make_spans, make_tiles

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


def make(sizes, planned):
    sizes = torch.tensor(sizes)
    index = torch.arange(len(sizes)).repeat_interleave(sizes)
    layout = TokenLayout.from_index(index[torch.randperm(len(index))], len(sizes))
    setting = Setting.from_layout(layout, 0.0)
    return setting if planned else replace(setting, plan=setting.plan[:0])


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("tile", [16, 64])
@pytest.mark.parametrize("name", MIXES)
def test_every_token_once(name, tile, classes, planned):
    sizes = MIXES[name]
    setting = make(sizes, planned)
    order = setting.token_order.tolist()
    taken = []
    for span in make_spans(setting, classes):
        tokens = order[span.first : span.first + span.count]
        mine = [t for t in tokens if span.least <= sizes[t] <= span.size]
        if planned:
            # No program runs for nothing.
            assert mine == tokens
        taken += mine
    tiles = make_tiles(setting, classes, tile)
    if tiles is not None:
        found = list(zip(tiles.token.tolist(), tiles.first.tolist(), strict=True))
        found = [(t, first, i) for i, (t, first) in enumerate(found) if t >= 0]
        larger = sorted({t for t, _, _ in found})
        for token in larger:
            mine = [(first, i) for t, first, i in found if t == token]
            start = mine[0][1]
            assert mine == [(start, start + i) for i in range(-(-sizes[token] // tile))]
        taken += larger
        assert tiles.rows == tiles.count * tile
        if planned:
            # At most one tile a token runs for nothing.
            assert tiles.count - len(found) <= len(larger)
    assert sorted(taken) == list(range(len(sizes)))


def test_no_launch_for_what_is_not_there():
    spans = make_spans(make((3, 4, 5), True), (16, 32, 64))
    assert [(span.size, span.count) for span in spans] == [(16, 3)]
    assert make_tiles(make((3, 4, 5), True), (16, 32, 64), 64) is None
    assert make_tiles(make((3, 4, 50), False), (16, 32, 64), 64) is None


def test_a_chunk_that_straddles_a_limit_goes_up_whole():
    # Sizes 15 to 18 share a chunk of the plan.
    setting = make((15, 16, 17, 18), True)
    assert setting.plan.size(0) == 1
    spans = make_spans(setting, (16, 32, 64))
    assert [(span.size, span.count, span.least) for span in spans] == [(32, 4, 0)]
