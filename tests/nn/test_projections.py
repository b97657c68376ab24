"""What may stand where a layer projects, and who sees it at work."""

import copy

import pytest
import torch
from oracle import token_loop
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint
from torch_geometric.nn.dense import Linear

from pyg_atomenc import AtomAttentionEncoder, TokenAttentionConv, TokenLayout
from pyg_atomenc.nn.projections import fuse_projections

INDEX = torch.tensor([2, 0, 0, 1, 2, 0, 2])
LAYOUT = TokenLayout.from_index(INDEX, 4)
NAMES = ("lin_query", "lin_key", "lin_value")
LAYERS = {"encoder": AtomAttentionEncoder, "conv": TokenAttentionConv}
BY_LAYER = pytest.mark.parametrize("layer", LAYERS)


def make(layer="encoder", **options):
    return LAYERS[layer](8, 4, heads=2, **options)


class Lora(torch.nn.Module):
    """A frozen layer and what is learned beside it."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = torch.nn.Linear(8, 2, bias=False)
        self.up = torch.nn.Linear(2, 8, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class LoraLinear(torch.nn.Linear):
    """The same, as a Linear."""

    def __init__(self, base):
        super().__init__(8, 8, bias=False)
        self.extra = torch.nn.Linear(8, 8)

    def forward(self, x):
        return super().forward(x) + self.extra(x)


class PackedLinear(torch.nn.Linear):
    """Keeps its weight as bytes, and its scale apart, as libraries for few bits do."""

    def __init__(self, base):
        super().__init__(8, 8, bias=False)
        packed = (self.weight.detach() * 100).round().to(torch.int8)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)

    def forward(self, x):
        return x @ self.weight.to(x.dtype).T / 100


class Halved(torch.nn.Module):
    def forward(self, weight):
        return weight / 2


def parametrized(base):
    parametrize.register_parametrization(base, "weight", Halved())
    return base


def quantised(base):
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    kinds = {torch.nn.Linear}
    return torch.ao.quantization.quantize_dynamic(model, kinds, torch.qint8)[0]


def sharded(base):
    """Its weight is a view of a flat parameter, set anew for every call."""
    flat = torch.nn.Parameter(base.weight.detach().flatten().clone())
    del base.weight
    base.flat = flat
    base.weight = flat.view(8, 8)
    return base


REPLACED = {
    "torch": lambda base: torch.nn.Linear(8, 8),
    "PyG": lambda base: Linear(8, 8),
    "lazy of PyG": lambda base: Linear(-1, 8),
    "lazy of torch": lambda base: torch.nn.LazyLinear(8),
    "LoRA": Lora,
    "LoRA as a Linear": LoraLinear,
    "packed": PackedLinear,
    "two layers": lambda base: torch.nn.Sequential(base, torch.nn.Linear(8, 8)),
    "Identity": lambda base: torch.nn.Identity(),
    "old weight_norm": torch.nn.utils.weight_norm,
    "weight_norm": parametrizations.weight_norm,
    "old spectral_norm": torch.nn.utils.spectral_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "parametrized": parametrized,
    "pruned": lambda base: prune.random_unstructured(base, "weight", 0.5),
    "quantised": quantised,
    "sharded": sharded,
}
WARNINGS = pytest.mark.filterwarnings("ignore:.*(deprecated|Lazy modules)")


def expected_of(layer, x):
    """By NumPy, from what the modules give when they are called."""
    h = x
    if isinstance(layer, AtomAttentionEncoder):
        h = torch.nn.functional.layer_norm(x, (8,))
    qkv = [getattr(layer, name)(h).view(-1, 2, 4) for name in NAMES]
    atoms, tokens, *_ = token_loop(*qkv, INDEX, 4)
    tokens = tokens if isinstance(layer, AtomAttentionEncoder) else atoms
    return torch.from_numpy(tokens).flatten(1).float()


@WARNINGS
@BY_LAYER
@pytest.mark.parametrize("which", [("lin_query",), ("lin_value",), NAMES])
@pytest.mark.parametrize("name", REPLACED)
def test_any_module_may_project(name, which, layer):
    model = make(layer).eval()
    for lin in which:
        setattr(model, lin, REPLACED[name](getattr(model, lin)))
    model.eval()
    x = torch.randn(7, 8)
    out = model(x, LAYOUT)
    torch.testing.assert_close(out, expected_of(model, x), rtol=1e-5, atol=1e-5)
    if out.requires_grad:
        out.pow(2).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x, LAYOUT)
    assert (found - out).abs().max() < 0.05 * out.abs().max()


@WARNINGS
@BY_LAYER
@pytest.mark.parametrize(
    "name",
    ["torch", "two layers", "LoRA", "Identity", "old weight_norm", "pruned"],
)
def test_other_modules_of_another_type(name, layer):
    model = make(layer)
    model.lin_key = REPLACED[name](model.lin_key)
    model, x = model.double(), torch.randn(7, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x, LAYOUT).float(), expected_of(model, x))


class Gives(torch.nn.Module):
    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, x):
        return self.give(x)


BAD = {
    "width": (lambda x: x[:, :6], r"gives torch.float32 of shape \[7, 6\]: let it map"),
    "rows": (lambda x: x[:6], r"gives torch.float32 of shape \[6, 8\]"),
    "one row": (lambda x: x[:1], r"gives torch.float32 of shape \[1, 8\]"),
    "dimensions": (lambda x: x.view(7, 2, 4), r"gives .* of shape \[7, 2, 4\]"),
    "integers": (lambda x: x.long(), r"gives torch.int64 of shape"),
    "tuple": (lambda x: (x, None), "gives of type tuple"),
}


@BY_LAYER
@pytest.mark.parametrize("lin", NAMES)
@pytest.mark.parametrize("name", BAD)
def test_what_a_module_gives_wrong_is_named(name, lin, layer):
    give, message = BAD[name]
    model = make(layer)
    setattr(model, lin, Gives(give))
    with pytest.raises(ValueError, match=f"'{lin}' {message}"):
        model(torch.randn(7, 8), LAYOUT)


@BY_LAYER
def test_a_type_of_its_own_is_named(layer):
    model = make(layer)
    model.lin_value = Gives(lambda x: x.double())
    with pytest.raises(ValueError, match="'lin_value' give .*torch.float64.*one type"):
        model(torch.randn(7, 8), LAYOUT)
    model = make(layer, edge_dim=3)
    model.lin_edge = torch.nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"'lin_edge' gives .* \[19, 2\]"):
        model(torch.randn(7, 8), LAYOUT, edge_attr=torch.randn(LAYOUT.num_pairs, 3))


@BY_LAYER
@pytest.mark.parametrize("lin", NAMES)
def test_what_a_plain_linear_cannot_take_is_named(layer, lin):
    model, x = make(layer), torch.randn(7, 8)
    setattr(model, lin, torch.nn.Linear(5, 8))
    with pytest.raises(
        ValueError, match=f"'x' needs .*, 5\\].*make '{lin}' with in_ch.*=8"
    ):
        model(x, LAYOUT)
    setattr(model, lin, torch.nn.Linear(8, 8).double())
    with pytest.raises(ValueError, match=f"'x' is .*float32, but '{lin}' of .*float64"):
        model(x, LAYOUT)
    setattr(model, lin, torch.nn.Linear(8, 8, device="meta"))
    with pytest.raises(ValueError, match=f"'x' is on cpu, but '{lin}' on meta"):
        model(x, LAYOUT)


@BY_LAYER
@pytest.mark.parametrize(
    "module",
    [torch.nn.Linear(3, 2), torch.nn.LazyLinear(2), torch.nn.Sequential(Linear(-1, 2))],
)
def test_any_module_may_project_features_of_edges(layer, module):
    model = make(layer, edge_dim=3)
    plain = copy.deepcopy(model)
    model.lin_edge = module
    edge_attr = torch.randn(LAYOUT.num_pairs, 3)
    x = torch.randn(7, 8)
    out = model(x, LAYOUT, edge_attr=edge_attr)
    inner = module[0] if isinstance(module, torch.nn.Sequential) else module
    # Its additive bias changes no softmax.
    plain.lin_edge.weight = inner.weight
    torch.testing.assert_close(out, plain(x, LAYOUT, edge_attr=edge_attr))


HOOKS = [
    "forward_hook",
    "forward_pre_hook",
    "full_backward_hook",
    "full_backward_pre_hook",
]


@BY_LAYER
@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_see_every_projection(hook, everywhere, layer):
    model, x = make(layer), torch.randn(7, 8, requires_grad=True)
    expected = model(x, LAYOUT)
    seen = []

    def look(module, *_):
        seen.append(module)

    if everywhere:
        register = getattr(torch.nn.modules.module, f"register_module_{hook}")
        handles = [register(look)]
    else:
        handles = [
            getattr(getattr(model, lin), f"register_{hook}")(look) for lin in NAMES
        ]
    try:
        out = model(x, LAYOUT)
        out.sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(out, expected)
    for lin in NAMES:
        assert seen.count(getattr(model, lin)) == 1


@BY_LAYER
def test_hooks_of_state_dicts_are_called(layer):
    model, seen = make(layer), []
    model.lin_key.register_state_dict_pre_hook(lambda *_: seen.append("save"))
    model.lin_key.register_load_state_dict_post_hook(lambda *_: seen.append("load"))
    model.load_state_dict(model.state_dict())
    assert seen == ["save", "load"]


@BY_LAYER
def test_a_functional_call_takes_other_weights(layer):
    model, other, x = make(layer), make(layer), torch.randn(7, 8)
    weights = dict(other.named_parameters())
    found = torch.func.functional_call(model, weights, (x, LAYOUT))
    torch.testing.assert_close(found, other(x, LAYOUT))


@BY_LAYER
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed(layer, use_reentrant):
    model, x = make(layer, dropout=0.3), torch.randn(7, 8, requires_grad=True)

    def again(*args):
        return checkpoint(model, *args, use_reentrant=use_reentrant)

    found = []
    for run in (model, again):
        torch.manual_seed(0)
        x.grad = None
        model.zero_grad()
        run(x, LAYOUT).pow(2).sum().backward()
        found.append([x.grad, *[p.grad for p in model.parameters()]])
    torch.testing.assert_close(*found)


class Labelled(torch.Tensor):
    """A tensor that wraps another, as those of parallel or packed weights do."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=inner.device
        )

    def __init__(self, inner):
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(tensors, context, size, stride):
        return Labelled(tensors["inner"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return Labelled(args[0].inner)
        if func not in (torch.ops.aten.t.default, torch.ops.aten.linear.default):
            raise NotImplementedError(str(func))
        return func(*(a.inner if isinstance(a, Labelled) else a for a in args))


@BY_LAYER
def test_weights_of_another_class_are_multiplied_by_it(layer):
    model, x = make(layer).requires_grad_(False), torch.randn(7, 8)
    expected = model(x, LAYOUT)
    for name in NAMES:
        linear = getattr(model, name)
        linear.weight = torch.nn.Parameter(Labelled(linear.weight.detach()), False)
    torch.testing.assert_close(model(x, LAYOUT), expected)


@pytest.mark.parametrize("concat", [False, True])
@pytest.mark.parametrize("layer", [AtomAttentionEncoder, TokenAttentionConv])
@pytest.mark.parametrize("which", [NAMES, NAMES[:1], NAMES[2:]])
def test_linears_of_another_width_are_refused(which, layer, concat):
    model = layer(8, 4, 2, concat)
    for name in which:
        setattr(model, name, torch.nn.Linear(8, 10))
    message = rf"'{which[0]}' gives torch.float32 of shape \[7, 10\]: let it map"
    with pytest.raises(ValueError, match=message):
        model(torch.randn(7, 8), LAYOUT)


def test_which_projections_are_not_fused():
    encoder, x = make(), torch.randn(7, 8)
    linears = [encoder.lin_query, encoder.lin_key, encoder.lin_value]

    def fused():
        return fuse_projections(linears, (2, 4), x)

    assert fused()[0][0].shape == (2, 4, 8) and fused()[1] is None
    handle = linears[0].register_forward_pre_hook(lambda *_: None)
    assert fused() is None
    handle.remove()
    linears[0].forward = linears[0].forward
    assert fused() is None
    del linears[0].forward
    for module in (
        torch.nn.Linear(8, 8),  # alone with a bias
        torch.nn.Linear(8, 6, bias=False),
        torch.nn.Linear(6, 8, bias=False),
        torch.nn.Linear(8, 8, bias=False).double(),
        torch.nn.Identity(),
    ):
        linears[1] = module
        assert fused() is None
    linears[1] = torch.nn.Linear(8, 8, bias=False)
    assert fused()[0][0].shape == (2, 4, 8)
    linears[:] = [torch.nn.Linear(8, 8) for _ in linears]
    assert fused()[1][0].shape == (2, 4)


@BY_LAYER
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("channels", [1, 16, 17])
def test_few_features_of_edges_are_mapped_by_head(channels, lazy, layer):
    model = make(layer, edge_dim=-1 if lazy else channels)
    x = torch.randn(50, channels, requires_grad=True)
    out, linear = model.edge_bias(x, 50), model.lin_edge
    # Of few features the heads' products lie one after the other.
    assert (out.stride() == (1, 50)) == (channels <= 16)
    expected = torch.nn.functional.linear(x, linear.weight)
    leaves, weights = (x, linear.weight), torch.randn_like(out)
    torch.testing.assert_close(out, expected)
    found = torch.autograd.grad(out, leaves, weights)
    torch.testing.assert_close(found, torch.autograd.grad(expected, leaves, weights))
    with torch.autocast("cpu", torch.bfloat16):
        assert model.edge_bias(x, 50).dtype == torch.bfloat16
    assert model.edge_bias(x[:0], 0).shape == (0, 2)
    with pytest.raises(ValueError, match=r"'lin_edge' gives .* \[50, 2\]"):
        model.lin_edge = torch.nn.Linear(channels, 3, bias=False)
        model.edge_bias(x, 50)
    model.lin_edge = torch.nn.Linear(channels, 2)
    found = model.edge_bias(x, 50)
    torch.testing.assert_close(found, model.lin_edge(x))


@BY_LAYER
def test_who_looks_at_features_of_edges_sees_rows(layer):
    model, pairs = make(layer, edge_dim=3), torch.randn(LAYOUT.num_pairs, 3)
    expected = model(torch.ones(7, 8), LAYOUT, edge_attr=pairs)
    for register in ("register_forward_hook", "register_full_backward_hook"):
        seen = []
        handle = getattr(model.lin_edge, register)(
            lambda *given, seen=seen: seen.append(given[2][0].view(-1).numel())
        )
        out = model(torch.ones(7, 8), LAYOUT, edge_attr=pairs.requires_grad_())
        out.sum().backward()
        handle.remove()
        torch.testing.assert_close(out, expected)
        assert len(seen) == 1
    for make_module in (torch.jit.script, torch.fx.symbolic_trace):
        own = copy.deepcopy(model)
        own.lin_edge = make_module(own.lin_edge)
        out = own(torch.ones(7, 8), LAYOUT, edge_attr=pairs)
        torch.testing.assert_close(out, expected)


def test_messages_get_rows_of_features_of_edges():
    class Seen(TokenAttentionConv):
        def edge_update(self, query_i, key_j, bias, index, ptr, size_i):
            assert bias.view(-1).numel() == 2 * LAYOUT.num_pairs
            given = query_i, key_j, bias, index, ptr, size_i
            return super().edge_update(*given)

    torch.manual_seed(0)
    model, x = Seen(8, 4, 2, edge_dim=3), torch.randn(7, 8)
    pairs = torch.randn(LAYOUT.num_pairs, 3)
    plain = make("conv", edge_dim=3)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x, LAYOUT, pairs), plain(x, LAYOUT, pairs))
