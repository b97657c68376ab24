import pytest
import torch

from pyg_atomenc.transforms.neighbors import neighbors

pytest.importorskip("scipy", reason="SciPy is not installed")


def loop(pos, batch, cutoff, most):
    found = []
    for a in range(len(pos)):
        near = [
            ((pos[a] - pos[b]).norm().item(), b)
            for b in range(len(pos))
            if a != b and batch[a] == batch[b] and (pos[a] - pos[b]).norm() <= cutoff
        ]
        found += [(b, a) for b in sorted(b for _, b in sorted(near)[:most])]
    return found


@pytest.mark.parametrize("most", [None, 1, 4])
def test_it_finds_what_a_loop_finds(most):
    pos = 6 * torch.rand(80, 3, dtype=torch.float64)
    batch = torch.randint(0, 3, (80,)).sort().values
    pos[7] = torch.nan
    pos[8, 1] = torch.inf
    found = neighbors(pos, batch, 2.0, most).t().tolist()
    known = pos.clone()
    known[7], known[8] = 1e9, -1e9
    assert [tuple(pair) for pair in found] == loop(known, batch, 2.0, most)
    assert len(found) > 40


def test_points_at_one_place_and_just_at_the_cutoff():
    pos = torch.tensor([[0.0, 0, 0], [0, 0, 0], [2, 0, 0]])
    assert neighbors(pos, None, 2.0, None).tolist() == [
        [1, 2, 0, 2, 0, 1],
        [0, 0, 1, 1, 2, 2],
    ]


@pytest.mark.parametrize("count", [0, 1])
def test_few_points(count):
    assert neighbors(torch.zeros(count, 3), None, 1.0, 2).shape == (2, 0)
