import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Subset

from pyg_atomenc import AtomTokenData
from pyg_atomenc.data import AtomTokenLoader, TokenBudgetSampler

SIZES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=120)


def columns(sizes):
    pairs, atoms = zip(*sizes, strict=True) if sizes else ((), ())
    return {
        "pairs": torch.tensor(pairs, dtype=torch.long),
        "atoms": torch.tensor(atoms, dtype=torch.long),
    }


def graphs(count=12):
    found = []
    for size in range(1, count + 1):
        index = torch.arange(size) // 3
        found.append(AtomTokenData(x=torch.full((size, 1), size), atom_to_token=index))
    return found


@given(
    sizes=SIZES,
    max_pairs=st.none() | st.integers(1, 80),
    max_atoms=st.integers(1, 80),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_each_graph_once_within_both_budgets(
    sizes, max_pairs, max_atoms, shuffle, epoch
):
    sampler = TokenBudgetSampler(
        None, max_pairs, max_atoms, shuffle=shuffle, **columns(sizes)
    )
    sampler.set_epoch(epoch)
    length = len(sampler)
    batches = list(sampler)
    assert length == len(batches)
    assert batches == list(sampler)
    assert sorted(sum(batches, [])) == list(range(len(sizes)))
    over = set()
    for batch in batches:
        pairs = sum(sizes[i][0] for i in batch)
        atoms = sum(sizes[i][1] for i in batch)
        if atoms > max_atoms or (max_pairs is not None and pairs > max_pairs):
            assert len(batch) == 1
            over |= set(batch)
    assert sampler.oversized_index.tolist() == sorted(over)
    if not shuffle:
        assert sum(batches, []) == list(range(len(sizes)))


@given(
    sizes=SIZES,
    ranks=st.integers(1, 7),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_ranks_are_disjoint_and_equally_long(sizes, ranks, shuffle, drop_last):
    options = {"max_atoms": 40, "shuffle": shuffle, **columns(sizes)}
    alone = list(TokenBudgetSampler(**options))
    if 0 < len(alone) < ranks and drop_last:
        sampler = TokenBudgetSampler(
            num_replicas=ranks, rank=0, drop_last=True, **options
        )
        with pytest.raises(ValueError, match="'drop_last' leaves no batch"):
            len(sampler)
        return
    samplers = [
        TokenBudgetSampler(num_replicas=ranks, rank=r, drop_last=drop_last, **options)
        for r in range(ranks)
    ]
    lengths = {len(sampler) for sampler in samplers}
    shares = [list(sampler) for sampler in samplers]
    assert len(lengths) == 1 and lengths == {len(share) for share in shares}
    # Step by step, as the ranks take them: those of one process, then a few again.
    together = [batch for step in zip(*shares, strict=True) for batch in step]
    if drop_last:
        assert together == alone[: len(alone) // ranks * ranks]
    else:
        assert together[: len(alone)] == alone
        again = together[len(alone) :]
        assert len(again) < ranks
        assert all(b == alone[i % len(alone)] for i, b in enumerate(again))


def test_epochs_and_seeds_differ_and_repeat():
    atoms = torch.arange(1, 200) % 17 + 1
    sampler = TokenBudgetSampler(max_atoms=50, atoms=atoms, shuffle=True, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first != second
    assert {frozenset(b) for b in first} != {frozenset(b) for b in second}
    sampler.set_epoch(0)
    assert list(sampler) == first
    other = TokenBudgetSampler(max_atoms=50, atoms=atoms, shuffle=True, seed=4)
    assert list(other) != first
    # The budget is used up but for the last batches.
    assert len(first) <= -(-int(atoms.sum()) // 50) + 1


def test_by_hand():
    pairs, atoms = [4, 4, 9, 1, 30, 2], [2, 2, 3, 1, 6, 2]
    sampler = TokenBudgetSampler(max_pairs=10, max_atoms=4, pairs=pairs, atoms=atoms)
    assert list(sampler) == [[0, 1], [2, 3], [4], [5]]
    assert sampler.oversized_index.tolist() == [4]
    only_atoms = TokenBudgetSampler(max_atoms=4, atoms=atoms)
    assert list(only_atoms) == [[0, 1], [2, 3], [4], [5]]
    assert "Sampler(max_pairs=10, max_atoms=4, shuffle=False" in repr(sampler)


def test_sizes_near_the_limits_of_integers_are_exact():
    pairs, atoms = [2**61, 2**61, 1], [2**31 - 1, 1, 1]
    sampler = TokenBudgetSampler(
        max_pairs=2**62, max_atoms=2**31 - 1, pairs=pairs, atoms=atoms
    )
    assert list(sampler) == [[0], [1, 2]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_takes_it(workers):
    data = graphs()
    sampler = TokenBudgetSampler(data, max_pairs=40, shuffle=True)
    loader = AtomTokenLoader(data, batch_sampler=sampler, num_workers=workers)
    assert len(loader) == len(sampler)
    seen = []
    for batch in loader:
        layout = batch.token_layout()
        assert int(layout.sizes.square().sum()) <= 40
        seen += batch.x.flatten().unique().tolist()
    assert sorted(seen) == list(range(1, 13))


def test_a_subset_is_measured_by_its_own_graphs():
    subset = Subset(graphs(), [11, 0, 5])
    sampler = TokenBudgetSampler(subset, max_atoms=12)
    assert list(sampler) == [[0], [1, 2]]


BAD = [
    ({}, "'max_pairs' and 'max_atoms' are both None"),
    ({"max_pairs": 0, "pairs": [1]}, "'max_pairs' is 0: pass a positive int"),
    ({"max_atoms": True, "atoms": [1]}, "'max_atoms' is True"),
    ({"max_atoms": 2.5, "atoms": [1]}, "'max_atoms' is 2.5"),
    ({"max_pairs": 5}, "'pairs' is missing for 'max_pairs': pass the dataset"),
    ({"max_pairs": 5, "atoms": [1]}, "'pairs' is missing"),
    ({"max_pairs": 5, "pairs": [1.5]}, "'pairs' is 1.5: pass an integer"),
    ({"max_pairs": 5, "pairs": torch.ones(2)}, "'pairs' is 1.0: pass an integer"),
    ({"max_pairs": 5, "pairs": torch.ones(2) > 0}, "'pairs' is True: pass an integer"),
    ({"max_pairs": 5, "pairs": [[1]]}, r"'pairs' is \[1\]: pass an integer"),
    ({"max_pairs": 5, "pairs": 1}, "'pairs' is of type int: pass a vector"),
    ({"max_pairs": 5, "pairs": [-1]}, "'pairs' is -1: pass an integer of at least 0"),
    ({"max_pairs": 5, "pairs": [1], "atoms": [1, 2]}, "the lengths differ"),
    ({"max_pairs": 5, "pairs": [1], "dataset": [1, 2]}, "the lengths differ"),
    ({"max_pairs": 5, "pairs": [1], "num_replicas": 2, "rank": 2}, "'rank' is 2 and"),
]


@pytest.mark.parametrize("arguments, message", BAD)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenBudgetSampler(**arguments)


def test_the_rank_comes_from_torch_distributed(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        sampler = TokenBudgetSampler(max_atoms=3, atoms=[1, 2, 3])
        assert (sampler.num_replicas, sampler.rank) == (1, 0)
    finally:
        torch.distributed.destroy_process_group()


def test_a_million_graphs_take_seconds():
    sizes = torch.randint(100, 5000, (200_000,))
    begin = time.perf_counter()
    sampler = TokenBudgetSampler(max_atoms=50_000, atoms=sizes, shuffle=True)
    count = len(sampler)
    # A fifth of a million; quadratic work would take hours.
    assert time.perf_counter() - begin < 20
    assert count < 1.02 * int(sizes.sum()) / 50_000 + 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(pairs=["a"]), "'pairs' is"),
        (dict(pairs=[None]), "'pairs' is"),
        (dict(num_replicas="2"), "'num_replicas' is '2'"),
        (dict(num_replicas=2, rank=0.5), "'rank' is 0.5"),
        (dict(seed="a"), "'seed' is 'a'"),
        (dict(pairs=None, dataset=3), "'dataset' is of type int"),
    ],
)
def test_arguments_of_other_types(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenBudgetSampler(**{"pairs": [1, 2], "max_pairs": 4, **arguments})


def test_a_budget_of_numpy():
    numpy = pytest.importorskip("numpy")
    assert len(TokenBudgetSampler(pairs=[1, 2], max_pairs=numpy.int64(4))) == 1
