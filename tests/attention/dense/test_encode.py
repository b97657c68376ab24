"""LayerNorm, projections and pooling in one: equal to the steps written out."""

import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import partitions
from torch.autograd import gradcheck, gradgradcheck
from torch.profiler import profile

from pyg_atomenc.attention import TokenLayout, attention_encode, backends
from pyg_atomenc.attention.dense import encode as dense_encode

PARTITIONS = partitions()
KEEPS = pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"),
    reason="this torch does not say whether there are hooks, so nothing is kept",
)
NAMES = ("x", "query", "key", "value", "bq", "bk", "bv", "pairs")


def make(
    index, num_tokens, *, pairs=True, biases=True, dtype=torch.float64, sizes=None
):
    """Inputs by name, each with a gradient, and the layout."""
    heads, head_channels, channels = sizes or (2, 3, 6)
    layout = TokenLayout.from_index(index, num_tokens)
    found = {"x": torch.randn(index.numel(), channels, dtype=dtype)}
    for name in ("query", "key", "value"):
        found[name] = torch.randn(heads, head_channels, channels, dtype=dtype)
    if biases:
        for name in ("bq", "bk", "bv"):
            found[name] = torch.randn(heads, head_channels, dtype=dtype)
    if pairs:
        found["pairs"] = torch.randn(layout.num_pairs, heads, dtype=dtype)
    return {k: v.requires_grad_() for k, v in found.items()}, layout


def encode(inputs, layout, backend="dense", **options):
    return attention_encode(
        inputs["x"],
        (inputs["query"], inputs["key"], inputs["value"]),
        layout,
        inputs.get("pairs"),
        biases=tuple(inputs[k] for k in ("bq", "bk", "bv")) if "bq" in inputs else None,
        backend=backend,
        **options,
    )


def gradients(outputs, inputs, seed=3):
    """Of a sum of the outputs with weights that are the same every time."""
    generator = torch.Generator().manual_seed(seed)
    loss = 0.0
    for out in outputs:
        factor = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        loss = loss + (out.double() * factor).sum()
    wanted = {k: v for k, v in inputs.items() if v.requires_grad}
    return dict(
        zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True)
    )


def assert_near(found, expected, tolerance, name=""):
    difference = (found.double() - expected.double()).abs().max().item()
    scale = expected.double().abs().max().clamp(min=1).item()
    assert difference <= tolerance * scale, f"{name}: {difference} of {scale}"


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", PARTITIONS)
def test_equals_the_definition(name, pairs, biases):
    inputs, layout = make(*PARTITIONS[name], pairs=pairs, biases=biases)
    found = encode(inputs, layout)
    expected = encode(inputs, layout, "edges")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    if layout.num_atoms == 0:
        return
    one, other = (gradients(outputs, inputs) for outputs in (found, expected))
    for key in inputs:
        assert_near(one[key], other[key], 1e-12, key)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("channels", [2, 32])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_tokens_of_few_atoms(size, channels, padded):
    sizes = torch.full((40,), size)
    sizes[::3] -= int(padded)
    index = torch.arange(40).repeat_interleave(sizes)
    inputs, layout = make(index, 40, sizes=(2, channels, 5))
    found = (gradients(encode(inputs, layout, b), inputs) for b in ("dense", "edges"))
    for one, other in zip(*(each.values() for each in found), strict=True):
        assert_near(one, other, 1e-12)


@pytest.mark.parametrize("backend", ["dense", "edges"])
@pytest.mark.parametrize("name", PARTITIONS)
def test_tokens_are_the_same_where_nobody_wants_the_weights(name, backend):
    inputs, layout = make(*PARTITIONS[name])

    def derivatives(**options):
        tokens, _ = encode(inputs, layout, backend, **options)
        values = list(inputs.values())
        grads = torch.autograd.grad(tokens.sin().sum(), values, create_graph=True)
        loss = sum(grad.square().sum() for grad in grads)
        again = torch.autograd.grad(loss, values, allow_unused=True)
        return [tokens, *grads, *again]

    for create_graph in (False, True):
        tokens, weights = encode(inputs, layout, backend, return_weights=False)
        # Whoever sums up all outputs gets what there is.
        loss = tokens.sum() + 0 * weights.sum()
        torch.autograd.grad(loss, inputs["x"], create_graph=create_graph)
    found = zip(derivatives(return_weights=False), derivatives(), strict=True)
    for one, other in found:
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("name", ["shuffled", "gappy", "one atom"])
def test_first_and_second_derivatives(name, pairs):
    index, num_tokens = PARTITIONS[name]
    inputs, layout = make(index[:9], num_tokens, pairs=pairs, sizes=(2, 2, 4))

    def function(*values):
        return encode(dict(zip(inputs, values, strict=True)), layout)

    # In full for few atoms, along random directions for more.
    fast = layout.num_atoms > 6
    assert gradcheck(function, list(inputs.values()), fast_mode=fast)
    assert gradgradcheck(function, list(inputs.values()), fast_mode=fast)


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=80),
    st.sampled_from(["sorted", "shuffled"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
    st.sets(st.sampled_from(NAMES)),
)
def test_random_partitions_with_some_inputs_frozen(ids, order, dtype, full, frozen):
    index = torch.tensor(sorted(ids) if order == "sorted" else ids)
    inputs, layout = make(index, 14, pairs=full, biases=full, dtype=dtype)
    for key in frozen & set(inputs):
        inputs[key].requires_grad_(False)
    exact = {
        k: v.detach().double().requires_grad_(v.requires_grad)
        for k, v in inputs.items()
    }
    found, expected = encode(inputs, layout), encode(exact, layout, "edges")
    tolerance = backends()["dense"].tolerance[dtype]
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other, tolerance)
    if not any(v.requires_grad for v in inputs.values()):
        assert not found[0].requires_grad
        return
    one, other = gradients(found, inputs), gradients(expected, exact)
    assert set(one) == set(inputs) - frozen
    for key in one:
        assert_near(one[key], other[key], 10 * tolerance, key)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["shuffled", "many sizes"])
def test_low_precision_within_the_stated_tolerance(dtype, name):
    inputs, layout = make(*PARTITIONS[name], dtype=dtype, sizes=(2, 8, 16))
    exact = {k: v.detach().double() for k, v in inputs.items()}
    tolerance = backends()["dense"].tolerance[dtype]
    # What rounds are the projections; they are the same in the definition.
    rounded = encode(inputs, layout, "edges")
    for found, near, truth in zip(
        encode(inputs, layout), rounded, encode(exact, layout, "edges"), strict=True
    ):
        error = (near.double() - truth).abs().max().item()
        assert_near(found, truth, max(tolerance, 1.2 * error))


def test_atoms_in_float32_with_weights_in_bfloat16():
    inputs, layout = make(
        *PARTITIONS["shuffled"], dtype=torch.float32, sizes=(2, 8, 16)
    )
    half = {k: v if k == "x" else v.bfloat16() for k, v in inputs.items()}
    tokens, weights = encode(half, layout)
    assert tokens.dtype == torch.bfloat16 and weights.dtype == torch.float32
    assert_near(tokens, encode(inputs, layout)[0], 3e-2)
    grads = gradients((tokens,), inputs)
    assert all(grad.isfinite().all() for grad in grads.values())


def test_dropout_is_alike_forward_and_backward():
    inputs, layout = make(*PARTITIONS["gappy"])

    def function(*values):
        torch.manual_seed(5)
        return encode(dict(zip(inputs, values, strict=True)), layout, dropout=0.4)

    assert gradcheck(function, list(inputs.values()))
    drawn = torch.stack(
        [encode(inputs, layout, dropout=0.4)[0].detach() for _ in range(4000)]
    )
    mean = encode(inputs, layout)[0]
    error = (drawn.mean(0) - mean).abs() / (drawn.std(0) / 4000**0.5 + 1e-12)
    assert drawn.std(0).max() > 0.1 and (error < 5).all()


def test_runs_are_equal_to_the_last_bit():
    inputs, layout = make(*PARTITIONS["many sizes"], dtype=torch.float32)
    runs = [encode(inputs, layout) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    grads = [gradients(run, inputs) for run in runs]
    assert all(torch.equal(grads[0][key], grads[1][key]) for key in inputs)


def test_strided_inputs():
    inputs, layout = make(*PARTITIONS["shuffled"])
    strided = {
        k: torch.stack([v.detach(), v.detach()], -1)[..., 0].requires_grad_()
        for k, v in inputs.items()
    }
    assert not strided["x"].is_contiguous()
    found, expected = encode(strided, layout), encode(inputs, layout)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    one, other = gradients(found, strided), gradients(expected, inputs)
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=1e-12)


def peak_bytes(function):
    """The most memory that was allocated at once, beyond what was before."""
    function()
    with profile(profile_memory=True) as found:
        kept = function()
    now = peak = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    del kept
    return peak


@pytest.mark.parametrize("tokens, low, high", [(4000, 4, 15), (600, 20, 37)])
def test_memory_is_a_fraction_of_the_projections(tokens, low, high):
    sizes = torch.randint(low, high, (tokens,))
    index = torch.arange(tokens).repeat_interleave(sizes)[torch.randperm(sizes.sum())]
    inputs, layout = make(
        index,
        tokens,
        pairs=False,
        biases=False,
        dtype=torch.float32,
        sizes=(4, 32, 128),
    )
    projected = index.numel() * 3 * 128 * 4
    assert projected > 2**24

    def forward():
        with torch.no_grad():
            return encode(inputs, layout)

    def both():
        return gradients(encode(inputs, layout)[:1], inputs)

    # Chunks and small sums, which do not grow with the number of tokens, are 10 MB.
    assert peak_bytes(forward) < 0.5 * projected + 1e7
    assert peak_bytes(both) < 1.0 * projected + 1e7


def test_one_token_of_many_atoms_never_holds_its_matrix():
    atoms = 6000
    index = torch.zeros(atoms, dtype=torch.long)
    inputs, layout = make(
        index, 1, pairs=False, biases=False, dtype=torch.float32, sizes=(4, 8, 16)
    )
    matrices = 4 * 4 * atoms**2

    def both():
        return gradients(encode(inputs, layout)[:1], inputs)

    assert peak_bytes(both) < matrices / 15


def test_bad_input():
    inputs, layout = make(torch.tensor([0, 0, 1]), 2)
    weights = (inputs["query"], inputs["key"], inputs["value"])
    for changes, message in [
        ({"x": inputs["x"][:2]}, "'x' has 2 rows for 3 atoms of 'layout'"),
        ({"x": inputs["x"][:, :5]}, r"'x' needs the shape .*, 6\], found: \[3, 5\]"),
        ({"x": inputs["x"].long()}, "'x' is of type torch.int64"),
        ({"weights": (*weights[:2], weights[2][:1])}, "'weights' needs three tensors"),
        ({"weights": weights[:2]}, "'weights' needs three tensors"),
        ({"weights": ()}, "'weights' needs three tensors"),
        ({"weights": [w[:0] for w in weights]}, "at least one head.*0, 3, 6"),
        (
            {"weights": (*weights[:2], weights[2].float())},
            "'weights' is of type torch.float32, but the first of 'weights' of",
        ),
        (
            {"weights": (*weights[:2], weights[2].to("meta"))},
            "'weights' is on meta, but 'layout' on cpu",
        ),
        ({"biases": (inputs["bq"],) * 2 + (inputs["x"],)}, "'biases' needs three"),
        ({"biases": (inputs["bq"],) * 2}, "'biases' needs three"),
        ({"biases": ()}, "'biases' needs three"),
        (
            {"biases": (inputs["bq"].half(),) * 3},
            "'biases' is of type torch.float16, but the first of 'weights' of",
        ),
        (
            {"biases": (inputs["bq"].to("meta"),) * 3},
            "'biases' is on meta, but 'layout' on cpu",
        ),
        ({"bias": torch.zeros(5, 2, device="meta")}, "'bias' is on meta"),
        ({"layout": torch.zeros(3)}, "'layout' is of type Tensor"),
        ({"bias": torch.zeros(4, 2)}, r"'bias' needs the shape \[5, 2\]"),
        ({"dropout": 1.0}, "'dropout' is 1.0"),
        ({"backend": "fast"}, "'backend' is 'fast': choose one of 'auto', 'triton'"),
    ]:
        given_ = {"x": inputs["x"], "weights": weights, "layout": layout} | changes
        with pytest.raises(ValueError, match=message):
            attention_encode(**given_)


def test_vmap_is_a_loop():
    inputs, layout = make(torch.tensor([0, 0, 1]), 2)
    copies = torch.stack([inputs["x"].detach(), 2 * inputs["x"].detach()])
    found = torch.vmap(lambda x: encode(inputs | {"x": x}, layout)[0])(copies)
    for one, x in zip(found, copies, strict=True):
        torch.testing.assert_close(one, encode(inputs | {"x": x}, layout)[0])


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("index", [[0, 0, 2, 1, 2, 2, 0], [0] * 300, [*range(5)], []])
def test_what_is_kept_of_small_batches_changes_nothing(index, dropout, monkeypatch):
    inputs, layout = make(torch.tensor(index, dtype=torch.long), None)
    found = []
    for atoms in (2**11, -1):
        monkeypatch.setattr(dense_encode, "_KEPT_ATOMS", atoms)
        torch.manual_seed(5)
        outputs = encode(inputs, layout, dropout=dropout)
        given = [torch.ones_like(out) for out in outputs]
        leaves = list(inputs.values())
        # Twice: what was kept serves the first backward pass alone.
        for _ in range(2):
            found.append(torch.autograd.grad(outputs, leaves, given, retain_graph=True))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@KEEPS
def test_what_is_kept_is_forgotten_by_the_backward_pass(monkeypatch):
    made = []
    init = dense_encode.NormedAtoms.__init__

    def watch(self, *args):
        init(self, *args)
        made.append(weakref.ref(self))

    monkeypatch.setattr(dense_encode.NormedAtoms, "__init__", watch)
    inputs, layout = make(torch.tensor([0, 1, 1, 0]), None)
    loss = encode(inputs, layout)[0].sum()
    assert len(made) == 1 and made[0]() is not None
    loss.backward()
    assert len(made) == 1 and made[0]() is None and loss.grad_fn is not None


@pytest.mark.parametrize("atoms", [2**11, -1])
def test_inputs_edited_after_a_call_are_noticed(atoms, monkeypatch):
    monkeypatch.setattr(dense_encode, "_KEPT_ATOMS", atoms)
    inputs, layout = make(torch.tensor([0, 1, 1, 0]), None)
    tokens, _ = encode(inputs, layout)
    with torch.no_grad():
        inputs["x"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        tokens.sum().backward()


def test_outputs_may_be_edited_and_gradients_share_no_memory():
    inputs, layout = make(torch.tensor([0, 0, 0]), None, dtype=torch.float32)
    tokens, weights = encode(inputs, layout)
    tokens += 1
    weights *= 2
    (tokens.sum() + weights.pow(2).sum()).backward()
    pointers = {t.grad.untyped_storage().data_ptr() for t in inputs.values()}
    assert len(pointers) == len(inputs)


@pytest.mark.parametrize("count", [3, 40, 700])
def test_few_single_atoms_share_a_stretch_with_others_and_many_have_their_own(count):
    index = torch.cat([torch.arange(count), torch.full((4,), count)])
    inputs, layout = make(index[torch.randperm(count + 4)], None, dtype=torch.float32)
    wide = {k: v.detach().double().requires_grad_() for k, v in inputs.items()}
    outputs = encode(inputs, layout), encode(wide, layout, "edges")
    for one, two in zip(*outputs, strict=True):
        assert_near(one, two, 1e-5)
    found = gradients(outputs[0], inputs), gradients(outputs[1], wide)
    for name, grad in found[0].items():
        assert_near(grad, found[1][name], 1e-5, name)


def test_a_pair_bias_of_a_better_type_has_every_derivative():
    inputs, layout = make(torch.tensor([0, 0, 1, 1, 1]), None, dtype=torch.float32)
    inputs["pairs"] = inputs["pairs"].detach().double().requires_grad_()
    exact = {k: v.detach().double().requires_grad_() for k, v in inputs.items()}
    found = []
    for values, backend in ((inputs, "dense"), (exact, "edges")):
        tokens, _ = encode(values, layout, backend)
        loss = tokens.pow(2).sum()
        (first,) = torch.autograd.grad(loss, values["x"], create_graph=True)
        found.append(torch.autograd.grad(first.pow(2).sum(), values["pairs"])[0])
    assert found[0].dtype == torch.double
    assert_near(*found, 1e-4)


@KEEPS
def test_hooks_on_saved_tensors_see_all_that_is_kept(monkeypatch):
    kept = []
    forward = dense_encode.NormedAtoms.__init__

    def watch(self, *args):
        forward(self, *args)
        kept.append(self)

    monkeypatch.setattr(dense_encode.NormedAtoms, "__init__", watch)
    inputs, layout = make(torch.tensor([0, 1, 1, 0]), None)
    with torch.autograd.graph.save_on_cpu():
        encode(inputs, layout)[0].sum().backward()
    encode({k: v.detach() for k, v in inputs.items()}, layout)
    assert len(kept) == 3 and all(atoms.kept is None for atoms in kept)
    encode(inputs, layout)[0].sum().backward()
    assert len(kept) == 4 and len(kept[-1].kept) == 1
