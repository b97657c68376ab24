"""Without gradients windows are worked on in parts, with the same results."""

import pytest
import torch

from pyg_atomenc.attention import WindowLayout
from pyg_atomenc.nn import AtomTransformer


def make(sizes, dtype=torch.float64, **options):
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    layout = WindowLayout.from_ptr(ptr, **options)
    transformer = AtomTransformer(8, 2, 2).to(dtype)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x, cond = torch.randn(2, layout.num_atoms, 8, dtype=dtype)
    return transformer, x, layout, cond


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    "sizes", [(), (1,), (1024,), (1025,), (2500,), (1087, 0, 40, 3, 2048), 60 * (17,)]
)
def test_parts_equal_the_whole(sizes, shifted):
    transformer, x, layout, cond = make(sizes, shifted=shifted)
    expected = transformer(x.requires_grad_(), layout, cond)
    assert expected.requires_grad
    samples = torch.stack([x, x.sin()])
    with torch.no_grad():
        found = transformer(x, layout, cond)
        both = transformer(samples, layout, cond)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(both, transformer(samples, layout, cond))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parts_equal_the_whole_in_other_types(dtype):
    transformer, x, layout, cond = make((2500, 70), dtype)
    expected = transformer(x, layout, cond)
    with torch.no_grad():
        found = transformer(x, layout, cond)
    assert found.dtype == dtype
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 20 * torch.finfo(dtype).eps


def test_parts_see_their_keys_alone():
    transformer, x, layout, cond = make((2000, 1500))
    other = x.clone()
    other[2000:] = torch.nan
    with torch.no_grad():
        found = transformer(other, layout, cond)
        expected = transformer(x, layout, cond)
    torch.testing.assert_close(found[:2000], expected[:2000], rtol=0, atol=0)
    assert found[2000:].isnan().all()


def test_a_part_of_a_layout_has_its_edges():
    layout = make((70, 0, 33, 5), queries=4, keys=12)[2]
    edges, seen = layout.to_edge_index(), []
    for start in range(0, layout.num_windows, 7):
        queries, keys, part = layout.part(slice(start, start + 7))
        assert part.num_targets == queries.stop - queries.start
        assert part.num_sources == keys.stop - keys.start
        shift = torch.tensor([[keys.start], [queries.start]])
        seen.append(part.to_edge_index() + shift)
    assert torch.equal(torch.cat(seen, dim=1), edges)
