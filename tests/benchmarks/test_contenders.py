"""Every contender that runs on a CPU gives what the definition says, and its gradient.

What needs a GPU or a package that is not here gets a stand-in for the fused call, and
what surrounds it is compared.
"""

import sys
from types import SimpleNamespace

import pytest
import torch
from oracle import bias_matrix, token_loop

from pyg_atomenc import TokenLayout

SIZES = torch.tensor([1, 3, 16, 2, 7, 1, 9, 30, 4, 1, 5, 17])


@pytest.fixture
def problems(load, monkeypatch):
    module = load("problems")
    monkeypatch.setattr(module, "draw", lambda name, generator: SIZES)
    return module


def exact(problem):
    """Tokens by NumPy, and gradients by the definition in float64."""
    heads = [t.detach().double() for t in problem.heads()]
    return torch.from_numpy(token_loop(*heads, problem.index, problem.num_tokens)[1])


def check(make, problem):
    run, leaves = make(problem)
    found = run()
    torch.testing.assert_close(
        found.double(), exact(problem).flatten(1), rtol=0, atol=1e-5
    )
    weights = torch.randn(found.shape)
    (found * weights).sum().backward()
    return leaves, weights


def test_the_definition_is_that_of_numpy(problems):
    sizes = torch.tensor([2, 0, 5, 1])
    index = torch.arange(4).repeat_interleave(sizes)
    q, k, v = (torch.randn(8, 2, d, dtype=torch.float64) for d in (3, 3, 5))
    bias = torch.randn(4 + 25 + 1, 2, dtype=torch.float64)
    matrix = bias_matrix(TokenLayout.from_index(index, 4), bias)
    found = problems.definition(q, k, v, sizes, bias)
    expected = token_loop(q, k, v, index, 4, matrix)
    for one, other in zip(found, expected[:3], strict=True):
        torch.testing.assert_close(one, torch.from_numpy(other), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "size buckets",
        "size buckets, compiled",
        "PyG edges, compiled",
        "PyG edges + softmax + scatter",
        "PyG TransformerConv",
        "to_dense_batch + SDPA",
        "nested tensor SDPA",
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_equals_the_definition(name, load, problems, monkeypatch):
    contenders, fused = load("contenders"), load("fused")
    monkeypatch.setattr(fused, "SEQUENCES", 5)
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compiler(f, backend="aot_eager"))
    problem = problems.Problem("", "cpu", grad=True)
    _, weights = check(contenders.CONTENDERS[name], problem)
    expected = problems.Problem("", "cpu", torch.float64, grad=True)
    (problems.loop(expected) * weights).sum().backward()
    found = problem.x.grad.double()
    torch.testing.assert_close(found, expected.x.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", [SIZES, torch.tensor([40, 8, 3, 1, 60, 2])])
def test_the_blocks_of_the_mask(sizes, load, problems, monkeypatch):
    from torch.nn.attention.flex_attention import create_block_mask

    fused = load("fused")
    monkeypatch.setattr(fused, "BLOCK", 8)
    monkeypatch.setattr(problems, "draw", lambda name, generator: sizes)
    index = problems.Problem("", "cpu").index
    found = fused.block_mask(problems.Problem("", "cpu"))
    count = len(index)
    expected = create_block_mask(
        lambda b, h, q, k: index[q] == index[k], None, None, count, count, "cpu", 8
    )
    assert torch.equal(found.to_dense(), expected.to_dense())
    for name in ("full_kv_num_blocks", "kv_num_blocks", "q_num_blocks"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.seq_lengths == (count, count)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention(load, problems, monkeypatch):
    fused, compiler = load("fused"), torch.compile

    # Its own compiler takes minutes; torch compiles it for itself, with options.
    def leave(function, **options):
        return compiler(function, **options) if options else function

    monkeypatch.setattr(torch, "compile", leave)
    with torch.no_grad():
        problem = problems.Problem("", "cpu")
        found = fused.flex(problem)[0]()
    torch.testing.assert_close(found.double(), exact(problem).flatten(1))


def test_varlen_attention_in_stretches(load, problems, monkeypatch):
    fused, calls = load("fused"), []

    def varlen_attn(q, k, v, ends, others, width, _):
        sizes = ends.diff()
        assert ends is others and ends.dtype == torch.int32 and width == sizes.max()
        calls.append(len(sizes))
        return problems.definition(q, k, v, sizes)[0]

    module = SimpleNamespace(varlen_attn=varlen_attn)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    monkeypatch.setattr(fused, "SEQUENCES", 5)
    check(fused.varlen, problems.Problem("", "cpu", grad=True))
    assert calls == [5, 5, 2]


def test_xformers_in_stretches(load, problems, monkeypatch):
    fused = load("fused")

    def attend(q, k, v, attn_bias):
        return problems.definition(q[0], k[0], v[0], attn_bias)[0].unsqueeze(0)

    mask = SimpleNamespace(from_seqlens=lambda sizes, device: torch.tensor(sizes))
    module = SimpleNamespace(
        memory_efficient_attention=attend, fmha=SimpleNamespace(BlockDiagonalMask=mask)
    )
    monkeypatch.setitem(sys.modules, "xformers", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "xformers.ops", module)
    monkeypatch.setattr(fused, "SEQUENCES", 5)
    check(fused.xformers, problems.Problem("", "cpu", grad=True))


def test_without_xformers_it_says_so(load, problems, monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)
    with pytest.raises(ImportError, match="needs the package 'xformers'"):
        load("fused").xformers(problems.Problem("", "cpu"))
