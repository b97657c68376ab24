import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyg_atomenc.data.packing import pack_evenly, pack_in_order

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=300)


@pytest.mark.parametrize("pack", [pack_evenly, pack_in_order])
@given(sizes=PAIRS, budget=st.integers(1, 50))
def test_every_sample_once_and_within_the_budget(pack, sizes, budget):
    batches = pack(sizes, budget)
    assert sorted(sum(batches, [])) == list(range(len(sizes)))
    for batch in batches:
        assert batch
        sums = [sum(sizes[sample][k] for sample in batch) for k in (0, 1)]
        assert max(sums) <= budget or len(batch) == 1


@given(sizes=PAIRS, budget=st.integers(1, 50))
def test_in_order_is_in_order_and_greedy(sizes, budget):
    batches = pack_in_order(sizes, budget)
    assert sum(batches, []) == list(range(len(sizes)))
    for one, other in zip(batches, batches[1:], strict=False):
        joined = [*one, other[0]]
        assert any(sum(sizes[s][k] for s in joined) > budget for k in (0, 1))


def test_evenly_by_hand():
    sizes = [(size, 0) for size in (6, 4, 7, 3, 5, 5)]
    assert sorted(map(sorted, pack_evenly(sizes, 10))) == [[0, 1], [2, 3], [4, 5]]
    # In order, six samples need five batches.
    assert len(pack_in_order([(s, 0) for s in (6, 5, 6, 5, 6, 4)], 10)) == 5


def test_batches_are_full_on_a_realistic_mix():
    draw = random.Random(0)
    atoms = [min(int(draw.lognormvariate(7.8, 0.9)), 40_000) for _ in range(20_000)]
    sizes = [(n, int(n * draw.uniform(0.7, 1.4))) for n in atoms]
    batches = pack_evenly(sizes, 40_000)
    used = [max(sum(sizes[s][k] for s in batch) for k in (0, 1)) for batch in batches]
    within = [min(one, 40_000) / 40_000 for one in used]
    assert sum(within) / len(within) > 0.98
