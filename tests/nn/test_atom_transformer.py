import copy

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pyg_atomenc.attention import TokenLayout, WindowLayout
from pyg_atomenc.nn import AtomTransformer


def fill(module):
    """Random values where a transformer starts at zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def layouts():
    windows = WindowLayout.from_ptr(torch.tensor([0, 7, 8, 23]), 4, 8)
    index = torch.randint(0, 6, (23,), generator=torch.Generator().manual_seed(1))
    tokens = TokenLayout.from_index(index, 7)
    shifted = WindowLayout.from_ptr(torch.tensor([0, 7, 8, 23]), 4, 8, shifted=True)
    return {"windows": windows, "tokens": tokens, "shifted": shifted}


def make(layout, dtype=torch.float64, **options):
    transformer = AtomTransformer(
        8, 2, 2, cond_channels=6, pair_channels=3, **options
    ).to(dtype)
    fill(transformer)
    count = layout.to_edge_index().size(1)
    x, cond = torch.randn(23, 8, dtype=dtype), torch.randn(23, 6, dtype=dtype)
    return transformer, x, cond, torch.randn(count, 3, dtype=dtype)


def gate(part, cond):
    return (cond @ part.lin_cond.weight.T + part.lin_cond.bias).sigmoid()


def plain(transformer, x, edge_index, cond, pair):
    """Every formula written out, edge by edge."""
    norm = torch.nn.functional.layer_norm
    source, target = edge_index
    for i, layer in enumerate(transformer.layers):
        s = layer.norm.norm_cond(cond)
        a = layer.norm.lin_scale(s).sigmoid() * norm(x, (8,)) + layer.norm.lin_shift(s)
        att = layer.attention
        q, k, v = (
            lin(a).view(-1, 2, 4) for lin in (att.lin_query, att.lin_key, att.lin_value)
        )
        bias = transformer.pair_bias
        beta = bias.lins[i](bias.norms[min(i, len(bias.norms) - 1)](pair))
        rows = []
        for atom in range(len(x)):
            edges = (target == atom).nonzero().flatten()
            seen = source[edges]
            logits = torch.einsum("hd,bhd->bh", q[atom], k[seen]) / 2 + beta[edges]
            rows.append(
                torch.einsum("bh,bhd->hd", logits.softmax(0), v[seen]).flatten()
            )
        out = att.lin_out(att.lin_gate(a).sigmoid() * torch.stack(rows))
        x = x + gate(layer, cond) * out
        step = layer.transition
        s = step.norm.norm_cond(cond)
        a = step.norm.lin_scale(s).sigmoid() * norm(x, (8,)) + step.norm.lin_shift(s)
        silu = torch.nn.functional.silu(step.lin_gate(a))
        inner = silu * step.lin_value(a) * step.lin_up(a)
        x = x + gate(step, cond) * step.lin_out(inner)
        if layer.post_norm is not None:
            x = layer.post_norm(x)
    return x


@pytest.mark.parametrize("name", layouts())
@pytest.mark.parametrize("options", [{}, {"post_norm": True}, {"shared_pair_norm": 1}])
def test_equals_the_formulas_on_any_layout(name, options):
    layout = layouts()[name]
    transformer, *rest = make(layout, **options)
    x, cond, pair = rest
    edges = layout.to_edge_index()
    expected = plain(transformer, x, edges, cond, pair)
    for given in (layout, edges):
        found = transformer(x, given, cond, pair)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    with torch.no_grad():
        found = transformer(x, layout, cond, pair)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", layouts())
def test_samples_share_the_rest(name):
    layout = layouts()[name]
    transformer, x, cond, pair = make(layout)
    conditioning = transformer.condition(layout, cond, pair)
    samples = torch.stack([x, x + 1, x.sin()])
    expected = torch.stack([transformer(s, layout, cond, pair) for s in samples])
    found = transformer(samples, conditioning)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", layouts())
def test_no_samples_have_gradients_of_zero(name):
    transformer, x, cond, pair = make(layouts()[name])
    out = transformer(x.expand(0, -1, -1), layouts()[name], cond, pair)
    assert out.shape == (0, 23, 8)
    out.sum().backward()
    for parameter in transformer.parameters():
        assert parameter.grad is not None and not parameter.grad.any()


def test_checkpointing_changes_no_gradient():
    layout = layouts()["windows"]
    transformer, *tensors = make(layout)
    other = copy.deepcopy(transformer)
    other.checkpoint = True
    for tensor in tensors:
        tensor.requires_grad_()
    x, cond, pair = tensors
    grads = [
        torch.autograd.grad(
            t(x, layout, cond, pair).pow(2).sum(), [*tensors, *t.parameters()]
        )
        for t in (transformer, other)
    ]
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_first_and_second_derivatives(checkpoint):
    layout = WindowLayout.from_ptr(torch.tensor([0, 3, 5]), 2, 4)
    transformer = AtomTransformer(4, 2, 1, pair_channels=2, checkpoint=checkpoint)
    transformer = transformer.double()
    fill(transformer)
    tensors = [torch.randn(5, 4), torch.randn(5, 4), torch.randn(layout.num_pairs, 2)]
    tensors = [t.double().requires_grad_() for t in tensors]

    def run(x, cond, pair):
        return transformer(x, layout, cond, pair)

    assert gradcheck(run, tensors)
    assert gradgradcheck(run, tensors)


@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
def test_compiles(backend):
    layout = layouts()["windows"]
    transformer, *tensors = make(layout, torch.float32)
    x, cond, pair = tensors
    compiled = torch.compile(transformer, fullgraph=True, backend=backend)
    torch.testing.assert_close(
        compiled(x, layout, cond, pair),
        transformer(x, layout, cond, pair),
        rtol=1e-4,
        atol=1e-5,
    )


def test_autocast_keeps_the_softmax_in_float32():
    layout = layouts()["windows"]
    transformer, x, cond, pair = make(layout, torch.float32)
    exact = transformer(x, layout, cond, pair)
    with torch.autocast("cpu", torch.bfloat16):
        found = transformer(x, layout, cond, pair)
    assert found.isfinite().all()
    assert (found - exact).norm() / exact.norm() < 0.05


def test_starts_as_the_identity_of_attention_and_without_pairs():
    transformer = AtomTransformer(8, 2, 1)
    layout = layouts()["windows"]
    x, cond = torch.randn(23, 8), torch.randn(23, 8)
    assert transformer(x, layout, cond).shape == (23, 8)
    assert transformer.layers[0].attention.lin_out.weight.eq(0).all()
    assert "depth=1" in repr(transformer)
    before = transformer.layers[0].norm.lin_scale.weight.clone()
    transformer.reset_parameters()
    assert not torch.equal(before, transformer.layers[0].norm.lin_scale.weight)


def test_bad_input():
    layout = layouts()["windows"]
    transformer, x, cond, pair = make(layout)
    with pytest.raises(ValueError, match="'channels' is 9 for 2 heads"):
        AtomTransformer(9, 2)
    with pytest.raises(ValueError, match="'depth' is 0"):
        AtomTransformer(8, 2, 0)
    with pytest.raises(ValueError, match="'cond' is of type NoneType: pass a tensor"):
        transformer(x, layout)
    with pytest.raises(ValueError, match="'pair' is missing"):
        transformer(x, layout, cond)
    with pytest.raises(
        ValueError, match=r"'pair' needs the shape \[\d+, 3\], found: \[3, 3\]"
    ):
        transformer(x, layout, cond, pair[:3])
    with pytest.raises(ValueError, match="'pair' needs the shape"):
        transformer(x, layout, cond, pair[:, :2])
    with pytest.raises(ValueError, match=r"'x' needs the shape \[23, 8\]"):
        transformer(x[:5], layout, cond, pair)
    with pytest.raises(ValueError, match=r"'cond' needs the shape \[num_atoms, 6\]"):
        transformer(x, layout, x, pair)
    message = "'layout' was built for 23 atoms, but the input has 22"
    with pytest.raises(ValueError, match=message):
        transformer(x, layout, cond[:22], pair)
    message = r"'layout\[1\]' has values from 23 to 23 for 23 target nodes"
    with pytest.raises(ValueError, match=message):
        transformer(x, torch.tensor([[0], [23]]), cond, pair[:1])
    with pytest.raises(
        ValueError, match=r"'layout' is torch.float32 of shape \[3, 4\]"
    ):
        transformer(x, torch.zeros(3, 4), cond, pair)
    with pytest.raises(
        ValueError, match=r"'layout' is torch.float32 of shape \[2, 4\]"
    ):
        transformer(x, torch.zeros(2, 4), cond, pair)
    conditioning = transformer.condition(layout, cond, pair)
    with pytest.raises(ValueError, match="part of the conditioning"):
        transformer(x, conditioning, cond)
    with pytest.raises(ValueError, match="no weights for it"):
        AtomTransformer(8, 2, 1, cond_channels=6).double()(x, layout, cond, pair)
