"""Every vectorised derivative on every path, below and above a chunk of atoms.

What each gives is compared with plain calls and their gradients, one row at a time.
"""

import pytest
import torch
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    vjp,
    vmap,
)

from pyg_atomenc.attention import TokenLayout, WindowLayout
from pyg_atomenc.nn import AtomAttentionEncoder, TokenAttentionConv

# A layer, its backend, and what it attends over.
PATHS = [
    (AtomAttentionEncoder, "auto", "index"),
    (AtomAttentionEncoder, "dense", "layout"),
    (AtomAttentionEncoder, "edges", "layout"),
    (TokenAttentionConv, "auto", "edges"),
    (TokenAttentionConv, "dense", "layout"),
    (TokenAttentionConv, "edges", "layout"),
    (TokenAttentionConv, "dense", "windows"),
    (TokenAttentionConv, "edges", "windows"),
]


class Problem:
    """A layer over some atoms, of which two are differentiated where rows are many."""

    def __init__(self, path, count, dropout=0.0):
        kind, backend, over = path
        self.layer = kind(3, 4, 2, backend=backend, dropout=dropout).double()
        index = torch.randint(0, 1 + count // 4, (count,))
        layout = TokenLayout.from_index(index)
        ptr = torch.tensor([0, count // 2, count])
        self.given = {
            "index": index,
            "layout": layout,
            "edges": layout.to_edge_index(),
            "windows": WindowLayout.from_ptr(ptr, 4, 8),
        }[over]
        self.x = torch.randn(count, 3, dtype=torch.float64)
        self.head = self.x[:2].clone()
        self.parameters = dict(self.layer.named_parameters())

    def run(self, x, parameters=None):
        if parameters is None:
            return self.layer(x, self.given)
        return functional_call(self.layer, parameters, (x, self.given))

    def loss(self, x, parameters=None):
        return self.run(x, parameters).pow(2).sum()

    def rows(self, head):
        return self.run(torch.cat([head, self.x[2:]]))[:2]

    def energy(self, head):
        return self.loss(torch.cat([head, self.x[2:]]))

    def jacobian(self):
        head = self.head.clone().requires_grad_()
        out = self.rows(head)
        found = [
            torch.autograd.grad(entry, head, retain_graph=True)[0]
            for entry in out.flatten()
        ]
        return torch.stack(found).view(*out.shape, *head.shape)

    def hessian(self):
        head = self.head.clone().requires_grad_()
        (first,) = torch.autograd.grad(self.energy(head), head, create_graph=True)
        found = [
            torch.autograd.grad(entry, head, retain_graph=True)[0]
            for entry in first.flatten()
        ]
        return torch.stack(found).view(*head.shape, *head.shape)


def by_edges(path):
    """A path that must not meet torch_scatter where it cannot go."""
    marks = [pytest.mark.scatter] if "edges" in path else []
    return pytest.param(path, marks=marks, id="-".join([path[0].__name__, *path[1:]]))


@pytest.fixture(params=map(by_edges, PATHS))
def path(request):
    return request.param


@pytest.fixture(params=[5, 2000])
def problem(path, request):
    return Problem(path, request.param)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_gradients_and_tangents(problem):
    x = problem.x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(problem.loss(x), x)
    close(grad(problem.loss)(problem.x), expected)
    close(vjp(problem.loss, problem.x)[1](torch.ones((), dtype=x.dtype))[0], expected)
    direction = torch.randn_like(expected)
    slope = (expected * direction).sum()
    close(jvp(problem.loss, (problem.x,), (direction,))[1], slope)
    found = torch.autograd.functional.jvp(problem.loss, problem.x, direction)[1]
    close(found, slope)


def test_over_atoms_and_over_parameters(problem):
    several = torch.stack([problem.x, 2 * problem.x])
    close(vmap(problem.run)(several), torch.stack([problem.run(x) for x in several]))
    stacked = {k: torch.stack([v, -2 * v]) for k, v in problem.parameters.items()}
    found = vmap(problem.run, (None, 0))(problem.x, stacked)
    for i in range(2):
        chosen = {name: value[i] for name, value in stacked.items()}
        close(found[i], problem.run(problem.x, chosen))


def test_gradients_of_every_sample(problem):
    several = torch.stack([problem.x, 2 * problem.x])
    by_x = vmap(grad(problem.loss))(several)
    by_weight = vmap(grad(problem.loss, 1), (0, None))(several, problem.parameters)
    for i, x in enumerate(several):
        x = x.clone().requires_grad_()
        loss = problem.loss(x)
        expected = torch.autograd.grad(loss, [x, *problem.layer.parameters()])
        close(by_x[i], expected[0])
        for name, gradient in zip(problem.parameters, expected[1:], strict=True):
            close(by_weight[name][i], gradient)


def test_jacobians(problem):
    expected = problem.jacobian()
    close(jacrev(problem.rows)(problem.head), expected)
    close(jacfwd(problem.rows)(problem.head), expected)
    jacobian = torch.autograd.functional.jacobian
    for options in (
        {},
        {"vectorize": True},
        {"vectorize": True, "strategy": "forward-mode"},
    ):
        close(jacobian(problem.rows, problem.head, **options), expected)
    head = problem.head.clone().requires_grad_()
    out = problem.rows(head)
    rows = torch.randn(3, *out.shape, dtype=out.dtype)
    (found,) = torch.autograd.grad(out, head, rows, is_grads_batched=True)
    close(found, torch.einsum("knc,ncij->kij", rows, expected))


def test_hessians(problem):
    expected = problem.hessian()
    energy, head = problem.energy, problem.head
    close(hessian(energy)(head), expected)
    close(jacrev(jacrev(energy))(head), expected)
    found = torch.vmap(hessian(energy))(torch.stack([head, head]))
    close(found, torch.stack([expected, expected]))
    of_autograd = torch.autograd.functional.hessian
    for options in (
        {},
        {"vectorize": True},
        {"vectorize": True, "outer_jacobian_strategy": "forward-mode"},
    ):
        close(of_autograd(energy, head, **options), expected)
    rows = torch.randn(3, *head.shape, dtype=head.dtype)
    products = torch.einsum("knc,ncij->kij", rows, expected)
    close(vmap(lambda v: jvp(grad(energy), (head,), (v,))[1])(rows), products)
    leaf = head.clone().requires_grad_()
    (first,) = torch.autograd.grad(energy(leaf), leaf, create_graph=True)
    options = {"retain_graph": True}
    found = torch.autograd.grad(first, leaf, rows, is_grads_batched=True, **options)
    close(found[0], products)
    found = vmap(lambda v: torch.autograd.grad(first, leaf, v, **options)[0])(rows)
    close(found, products)


def test_a_third_derivative_over_a_batch(path):
    problem = Problem(path, 5)
    leaf = problem.head.clone().requires_grad_()
    (out,) = torch.autograd.grad(problem.energy(leaf), leaf, create_graph=True)
    (out,) = torch.autograd.grad(out.pow(2).sum(), leaf, create_graph=True)
    rows = torch.randn(3, *leaf.shape, dtype=leaf.dtype)
    options = {"retain_graph": True}
    expected = [torch.autograd.grad(out, leaf, row, **options)[0] for row in rows]
    found = vmap(lambda v: torch.autograd.grad(out, leaf, v, **options)[0])(rows)
    close(found, torch.stack(expected))
    found = torch.autograd.grad(out, leaf, rows, is_grads_batched=True, **options)
    close(found[0], torch.stack(expected))


def test_hessian_of_300_atoms():
    # Rows one by one took three minutes.
    layer = AtomAttentionEncoder(4, 2, 1).double()
    lift = torch.randn(3, 4, dtype=torch.float64)
    layout = TokenLayout.from_index(torch.arange(300) // 8)
    position = torch.randn(300, 3, dtype=torch.float64)

    def energy(position):
        return layer((position @ lift).tanh(), layout).pow(2).sum()

    found = hessian(energy)(position)
    other = torch.autograd.functional.hessian(energy, position, vectorize=True)
    close(found, other)
    direction = torch.randn_like(position)
    product = torch.autograd.functional.hvp(energy, position, direction)[1]
    close(torch.einsum("naij,ij->na", found, direction), product)


def test_vectorised_gradients_of_dropout_share_its_draw(problem, path):
    problem = Problem(path, len(problem.x), dropout=0.4)
    head = problem.head.clone().requires_grad_()
    out = problem.rows(head)
    (first,) = torch.autograd.grad(out.pow(2).sum(), head, create_graph=True)
    for value in (out, first):
        rows = torch.randn(3, *value.shape, dtype=value.dtype)

        def pull(row, out=value, batched=False):
            options = {"retain_graph": True, "is_grads_batched": batched}
            return torch.autograd.grad(out, head, row, **options)[0]

        expected = torch.stack([pull(row) for row in rows])
        close(pull(rows, batched=True), expected)
        close(vmap(pull)(rows), expected)


def test_dropout_inside_of_vmap(path):
    problem = Problem(path, 5, dropout=0.4)
    several = torch.stack([problem.x, problem.x])
    for function in (problem.run, grad(problem.loss)):
        with pytest.raises(ValueError, match="'dropout' is drawn.*randomness='same'"):
            vmap(function)(several)
        first, second = vmap(function, randomness="same")(several)
        close(first, second)
        # Of five atoms, all may be dropped alike by chance.
        drawn = [vmap(function, randomness="different")(several) for _ in range(9)]
        assert not all(torch.allclose(*pair) for pair in drawn)
    with pytest.raises(ValueError, match="'dropout' is drawn"):
        hessian(problem.energy)(problem.head)
    with pytest.raises(ValueError, match="'dropout' is drawn"):
        torch.autograd.functional.jacobian(
            problem.rows, problem.head, vectorize=True, strategy="forward-mode"
        )
    torch.manual_seed(3)
    by_hand = jacfwd(jacrev(problem.energy), randomness="same")(problem.head)
    torch.manual_seed(3)
    close(by_hand, jacrev(jacrev(problem.energy))(problem.head))


def test_what_says_who_attends_to_whom_is_shared_by_a_batch():
    x = torch.randn(2, 5, 3)
    encoder, conv = AtomAttentionEncoder(3, 4, 2), TokenAttentionConv(3, 4, 2)
    index = torch.tensor([0, 0, 1, 1, 2])
    layout = TokenLayout.from_index(index)
    ptr = torch.tensor([0, 5])
    cases = {
        "index": (encoder, index),
        "ptr": (lambda x, ptr: encoder(x, ptr=ptr), layout.ptr),
        "edge_index": (conv, layout.to_edge_index()),
        "windows": (lambda x, p: conv(x, WindowLayout.from_ptr(p, 4, 8)), ptr),
        "layout": (encoder, layout),
    }
    for name, (run, given) in cases.items():
        expected = torch.stack([run(row, given) for row in x])
        torch.testing.assert_close(vmap(run, (0, None))(x, given), expected)
        # As an argument of `grad`, it is wrapped.
        sums = vmap(grad(lambda x, g, f=run: f(x, g).sum()), (0, None))(x, given)
        assert sums.shape == x.shape
        several = torch.utils._pytree.tree_map(lambda t: torch.stack([t, t]), given)
        with pytest.raises(ValueError, match=f"'{name}'|'ptr'.*torch.vmap runs over"):
            vmap(run)(x, several)
