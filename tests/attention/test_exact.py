"""Derivatives in every order and composition, of every path, and in compiled steps."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jvp, vmap

from pyg_atomenc import AtomAttentionEncoder, TokenAttentionConv, TokenLayout
from pyg_atomenc.attention.exact import inverse_root, layer_norm, softmax

INDEX = torch.tensor([0, 0, 1, 1, 1, 2, 2])
LAYOUT = TokenLayout.from_index(INDEX)
LAYERS = {
    "encoder": lambda **kw: AtomAttentionEncoder(6, 4, 2, **kw),
    "sum": lambda **kw: AtomAttentionEncoder(6, 4, 2, reduce="sum", **kw),
    "conv": lambda **kw: TokenAttentionConv(6, 4, 2, **kw),
}


def make(name, **options):
    torch.manual_seed(1)
    layer = LAYERS[name](**options).double()
    return layer, torch.randn(7, 6).double(), torch.randn(7, 6).double()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.fixture(params=["dense", "edges"])
def energy(request):
    """A scalar of atoms, and two directions."""
    found = []
    for name in LAYERS:
        layer, x, v = make(name, backend=request.param)
        found.append((lambda y, f=layer: f(y, LAYOUT).pow(2).sum(), x, v))
    return found


@pytest.mark.scatter
def test_second_derivatives_by_any_composition(energy):
    for function, x, v in energy:
        expected = torch.autograd.functional.hvp(function, x, v)[1]
        close(grad(lambda y, f=function, v=v: jvp(f, (y,), (v,))[1])(x), expected)
        close(jvp(grad(function), (x,), (v,))[1], expected)
        close(jacfwd(jacfwd(function))(x), hessian(function)(x))


@pytest.mark.scatter
def test_third_derivatives_by_differences(energy):
    for function, x, v in energy:

        def squared(y, f=function, v=v):
            first = torch.autograd.grad(f(y), y, create_graph=True)[0]
            product = (first * v).sum()
            return torch.autograd.grad(product, y, create_graph=True)[0].pow(2).sum()

        y = x.clone().requires_grad_()
        found = (torch.autograd.grad(squared(y), y)[0] * v).sum()
        step = 1e-5
        ends = [squared((x + s * v).requires_grad_()) for s in (step, -step)]
        expected = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.scatter
def test_gradients_go_through_tangents(energy):
    for function, x, v in energy:
        y = x.clone().requires_grad_()
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(y, v)
            tangent = forward_ad.unpack_dual(function(dual)).tangent
            tangent.pow(2).backward()
        expected = torch.autograd.functional.hvp(function, x, v)[1]
        slope = (torch.autograd.functional.jacobian(function, x) * v).sum()
        close(y.grad, 2 * slope * expected)


TRANSFORMS = {
    "jvp": lambda f, v: lambda y: jvp(f, (y,), (v,))[1],
    "grad": lambda f, v: grad(lambda y: f(y).pow(2).sum()),
    "vmap": lambda f, v: lambda y: vmap(f)(torch.stack([y, y + v])),
}


@pytest.mark.skipif(torch.__version__ < "2.7", reason="torch 2.6 cannot trace them")
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", ["encoder", "conv"])
def test_transforms_in_compiled_steps(name, transform):
    layer, x, v = make(name)
    function = TRANSFORMS[transform](lambda y: layer(y, LAYOUT), v)
    compiled = torch.compile(
        function, fullgraph=True, dynamic=True, backend="aot_eager"
    )
    close(compiled(x), function(x))
    named, x, v = make(name, backend="dense")
    function = TRANSFORMS[transform](lambda y: named(y, LAYOUT), v)
    with pytest.raises(Exception, match="torch.func inside of torch.compile"):
        torch.compile(function, fullgraph=True, backend="eager")(x)


def test_traces_of_float64_keep_its_precision():
    for name, given in (("encoder", INDEX), ("conv", LAYOUT.to_edge_index())):
        layer, x, _ = make(name)
        traced = torch.jit.trace(layer.eval(), (x, given))
        torch.testing.assert_close(
            traced(x, given), layer(x, given), rtol=1e-13, atol=0
        )


def test_they_equal_those_of_torch():
    x = torch.randn(5, 7, dtype=torch.double, requires_grad=True)
    close(layer_norm(x, exact=True), torch.nn.functional.layer_norm(x, (7,)))
    half = torch.randn(5, 7).half().requires_grad_()
    expected = torch.nn.functional.layer_norm(half.float(), (7,)).half()
    torch.testing.assert_close(layer_norm(half, exact=True), expected)
    with forward_ad.dual_level():
        close(softmax(x), x.softmax(-1))
    assert inverse_root(x) == 7**-0.5
