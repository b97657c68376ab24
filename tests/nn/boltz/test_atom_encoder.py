"""Encoder and decoder equal those of the `boltz` package."""

import copy
import dataclasses

import pytest
import torch
from boltz_oracle import SIZES, Boltz1, Boltz2, Flat, fill, require_boltz
from torch.nn import functional as F
from torch.optim import swa_utils
from torch_geometric.data import Data

from pyg_atomenc.attention.dense import windows as dense_windows
from pyg_atomenc.checkpoints import load_boltz, to_boltz_state_dict
from pyg_atomenc.nn import (
    BoltzAtomDecoder,
    BoltzAtomEncoder,
    BoltzConfig,
    conditioned_transition,
    pair_bias_attention,
)
from pyg_atomenc.nn.boltz import BoltzInputs, atom_encoder, atom_pairs

RAGGED = [1, 31, 33, 100]
LARGE = [1, 31, 33, 500, 2000]


def close(found, expected):
    error = (found - expected).abs().max() / expected.abs().max()
    assert error.item() <= (2e-5 if found.dtype == torch.float32 else 1e-9)


def both(oracle, flat, *, decode=True):
    """Tokens, atoms and updates of boltz, then ours; all flat."""
    require_boltz()
    diffusion = oracle.part == "diffusion"
    encoder, decoder = (
        None if layer is None else layer.to(flat.s.dtype)
        for layer in load_boltz(oracle.state_dict(), oracle.part)
    )
    trunk = (flat.pad(flat.s, flat.counts.tolist()), flat.pad_pairs())
    if diffusion:
        r = flat.pad_samples(flat.r)
        a, q = oracle.encode(flat.feats(), *trunk, r, flat.samples)
    else:
        a, q = oracle.encode(flat.feats())
    theirs = [flat.flat_samples(a, tokens=True), flat.flat_samples(q)]
    given = flat.trunk() if diffusion else {}
    conditioning = encoder.condition(**flat.inputs, **given)
    encoded = encoder(conditioning, flat.r if diffusion else None)
    ours = list(encoded) if diffusion else [t.unsqueeze(0) for t in encoded]
    if diffusion and decode:
        padded = flat.pad_samples(flat.a, tokens=True)
        theirs.append(flat.flat_samples(oracle.decode(padded, flat.samples)))
        ours.append(decoder(flat.a, encoded, conditioning))
    return theirs, ours, (encoder, decoder)


@pytest.fixture(params=[Boltz1, Boltz2], ids=["boltz1", "boltz2"])
def oracle(request):
    require_boltz()
    return request.param


@pytest.mark.parametrize(
    "part, sizes, samples",
    [
        ("trunk", [77], 1),
        ("trunk", RAGGED, 1),
        ("diffusion", [77], 1),
        ("diffusion", RAGGED, 4),
        pytest.param("trunk", LARGE, 1, marks=pytest.mark.slow),
        pytest.param("diffusion", LARGE, 1, marks=pytest.mark.slow),
        pytest.param("diffusion", LARGE, 4, marks=pytest.mark.slow),
    ],
)
def test_equals_boltz(oracle, part, sizes, samples):
    with torch.no_grad():
        theirs, ours, _ = both(oracle(part), Flat(sizes, samples))
    for one, other in zip(ours, theirs, strict=True):
        close(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {"names": False},
        {"backbone": True, "residue": True},
        {"post_norm": True, "names": False, "residue": True},
    ],
)
def test_the_options_of_boltz2(options):
    require_boltz()
    with torch.no_grad():
        theirs, ours, (encoder, _) = both(
            Boltz2("diffusion", 2, **options), Flat([40, 70], 2)
        )
    assert encoder.config.post_norm == options.get("post_norm", False)
    for one, other in zip(ours, theirs, strict=True):
        close(one, other)


@pytest.mark.parametrize("part", ["trunk", "diffusion"])
@pytest.mark.parametrize(
    "sizes, samples, dtype",
    [
        ([40], 1, torch.float32),
        pytest.param([1, 31, 33, 300], 2, torch.float32, marks=pytest.mark.slow),
        # In larger batches some ReLU is so near zero that rounding decides about its
        # gradient, in Boltz as here; in float64 none is.
        (RAGGED, 2, torch.float64),
        pytest.param(LARGE, 1, torch.float64, marks=pytest.mark.slow),
        pytest.param([1, 31, 33, 500], 4, torch.float64, marks=pytest.mark.slow),
    ],
)
def test_gradients_equal_those_of_boltz(
    oracle, part, sizes, samples, dtype, monkeypatch
):
    if dtype == torch.float64:
        # Boltz computes parts in float32 whatever it is given.
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    module = oracle(part, depth=2)
    for part_of in module.modules():
        part_of.to(dtype)
    diffusion = part == "diffusion"
    flat = Flat(sizes, samples if diffusion else 1, dtype)
    leaves = [flat.inputs["ref_pos"]]
    if diffusion:
        leaves += [flat.s, flat.z, flat.r, flat.a]
    for leaf in leaves:
        leaf.requires_grad_()
    theirs, ours, layers = both(module, flat)
    weights = [torch.randn_like(t) for t in theirs]

    def loss(outs):
        return sum((w * o).sum() for w, o in zip(weights, outs, strict=True))

    loss(theirs).backward()
    expected = [leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    loss(ours).backward()
    for leaf, grad in zip(leaves, expected, strict=True):
        close(leaf.grad, grad)
    expected = module_gradients(module)
    largest = max(grad.abs().max().item() for grad in expected.values())
    for name, grad in our_gradients(*layers).items():
        if "proj_z" in name and name.endswith("bias"):
            # It shifts all logits of a softmax alike: both are rounding alone.
            assert max(grad.abs().max(), expected[name].abs().max()) < 1e-4 * largest
        else:
            close(grad, expected[name])


def module_gradients(module):
    """Gradients of boltz's parameters under their names in a checkpoint."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.grad)
    return module.state_dict()


def our_gradients(encoder, decoder):
    """Ours, under the same names."""
    for layer in (encoder, decoder):
        for parameter in () if layer is None else layer.parameters():
            with torch.no_grad():
                parameter.copy_(parameter.grad)
    return to_boltz_state_dict(encoder, decoder)


SMALL = {
    "atom_channels": 8,
    "pair_channels": 4,
    "token_channels": SIZES["token_s"],
    "token_pair_channels": SIZES["token_z"],
    "heads": 2,
    "encoder_depth": 2,
    "decoder_depth": 1,
}


def make(config=None, sizes=(40, 3, 75), samples=2, dtype=torch.float64, **options):
    """A small encoder and decoder with weights everywhere, and what they read."""
    config = config or BoltzConfig.boltz2(queries=8, keys=16, **SMALL)
    encoder = BoltzAtomEncoder(config, **options).to(dtype)
    decoder = None
    if config.diffusion:
        decoder = BoltzAtomDecoder(config, **options).to(dtype)
    fill(*(layer for layer in (encoder, decoder) if layer is not None))
    return encoder, decoder, Flat(list(sizes), samples, dtype)


def run(encoder, decoder, flat, **given):
    conditioning = encoder.condition(**(flat.inputs | flat.trunk() | given))
    encoded = encoder(conditioning, flat.r)
    return [*encoded, decoder(flat.a, encoded, conditioning)]


def test_equals_the_edge_backend():
    encoder, decoder, flat = make()
    by_edges, decode_edges, _ = make(backend="edges")
    by_edges.load_state_dict(encoder.state_dict())
    decode_edges.load_state_dict(decoder.state_dict())
    expected = run(by_edges, decode_edges, flat)
    for one, other in zip(run(encoder, decoder, flat), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    with torch.no_grad():
        for one, other in zip(run(encoder, decoder, flat), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("grad", [False, True])
def test_groups_of_windows_and_rows_change_nothing(grad, monkeypatch):
    encoder, decoder, flat = make()
    flat.inputs["ref_pos"].requires_grad_(grad)
    flat.z.requires_grad_(grad)
    outs, grads = [], []
    for windows, rows in ((1, 7), (10**6, 10**6)):
        monkeypatch.setattr(pair_bias_attention, "CPU_WINDOWS", windows)
        monkeypatch.setattr(atom_pairs, "MAX_ROWS", rows)
        monkeypatch.setattr(dense_windows, "CPU_WINDOWS", windows)
        monkeypatch.setattr(conditioned_transition, "MAX_ROWS", rows)
        monkeypatch.setattr(atom_encoder, "MAX_ROWS", rows)
        with torch.set_grad_enabled(grad):
            outs.append(run(encoder, decoder, flat))
        if grad:
            leaves = [flat.inputs["ref_pos"], flat.z, *encoder.parameters()]
            loss = sum(out.square().sum() for out in outs[-1])
            grads.append(torch.autograd.grad(loss, leaves))
    for one, other in zip(*outs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    for one, other in zip(*grads, strict=True) if grad else ():
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_second_derivatives():
    config = BoltzConfig.boltz2(queries=2, keys=4, **SMALL)
    encoder, decoder, flat = make(config, sizes=(3, 2), samples=1)

    def loss(r, pos):
        flat.r = r
        return run(encoder, decoder, flat, ref_pos=pos)[2]

    tensors = [flat.r.requires_grad_(), flat.inputs["ref_pos"].requires_grad_()]
    assert torch.autograd.gradcheck(loss, tensors)
    assert torch.autograd.gradgradcheck(loss, tensors)


def test_batched_is_as_alone_and_padded_pairs_do():
    encoder, decoder, flat = make(samples=1)
    expected = run(encoder, decoder, flat)
    padded = run(encoder, decoder, flat, z_trunk=flat.pad_pairs())
    for one, other in zip(padded, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    start = token = pair = 0
    for size, count in zip(flat.sizes, flat.counts.tolist(), strict=True):
        inputs = {}
        for name, value in flat.inputs.items():
            rows = (token, count) if name.startswith("token_") else (start, size)
            inputs[name] = value.narrow(0, *rows) if name != "num_tokens" else count
        inputs["atom_to_token"] = inputs["atom_to_token"] - token
        inputs["batch"] = None
        conditioning = encoder.condition(
            **inputs,
            s_trunk=flat.s[token : token + count],
            z_trunk=flat.z[pair : pair + count**2],
        )
        found = encoder(conditioning, flat.r[0, start : start + size]).tokens
        torch.testing.assert_close(
            found, expected[0][0, token : token + count], rtol=0, atol=1e-11
        )
        start, token, pair = start + size, token + count, pair + count**2


def scale(layers, factor=1.5):
    for parameter in layers.parameters():
        parameter.data.copy_(factor * parameter.data)


def by_data(averaged):
    scale(averaged.module)


def by_optimizer(averaged):
    optimizer = torch.optim.SGD(averaged.parameters(), lr=0.1)
    for parameter in averaged.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def by_state_dict(averaged):
    state = averaged.module.state_dict()
    averaged.module.load_state_dict({k: 1.5 * v for k, v in state.items()})


def by_averaging(averaged):
    other = copy.deepcopy(averaged.module)
    for _ in range(2):
        scale(other)
        averaged.update_parameters(other)


@pytest.mark.parametrize("change", [by_data, by_optimizer, by_state_dict, by_averaging])
@torch.no_grad()
def test_new_weights_are_seen_however_they_came(change):
    *layers, flat = make(samples=1)
    averaged = swa_utils.AveragedModel(
        torch.nn.ModuleList(layers), multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.5)
    )
    encoder, decoder = averaged.module
    old = encoder.condition(**flat.inputs, **flat.trunk())
    encoded = encoder(old, flat.r)
    before = [*encoded, decoder(flat.a, encoded, old)]
    features = old.pairs.features(slice(None))
    change(averaged)
    fresh, fresh_decoder, _ = make()
    fresh.load_state_dict(encoder.state_dict())
    fresh_decoder.load_state_dict(decoder.state_dict())
    found, expected = run(encoder, decoder, flat), run(fresh, fresh_decoder, flat)
    for one, other, stale in zip(found, expected, before, strict=True):
        assert torch.equal(one, other) and not torch.allclose(one, stale)
    # A decoder makes its own conditioning of what the encoder was given.
    update = decoder(flat.a, encoded, old)
    assert torch.equal(update, fresh_decoder(flat.a, encoded, old))
    assert torch.equal(update, decoder(flat.a, encoded, decoder.condition(old)))
    assert not torch.allclose(update, before[2])
    # What was computed stays as it was.
    assert torch.equal(old.pairs.features(slice(None)), features)


@pytest.mark.parametrize("once", [False, True])
def test_training_with_several_decoders(once):
    encoder, decoder, flat = make()
    decoders = [decoder, copy.deepcopy(decoder)]
    fill(decoders[1])
    with torch.no_grad():
        # Inference before training leaves nothing behind.
        run(encoder, decoder, flat)
    conditioning = encoder.condition(**flat.inputs, **flat.trunk())
    encoded = encoder(conditioning, flat.r)
    outs = [
        d(flat.a, encoded, d.condition(conditioning) if once else conditioning)
        for d in decoders
    ]
    sum(out.sin().sum() for out in outs).backward()
    together = {name: p.grad for name, p in encoder.named_parameters()}
    own = [p.grad for d in decoders for p in d.parameters()]
    names = [name for name, grad in together.items() if grad is None]
    assert names == ["lin_token.weight"] and all(grad is not None for grad in own)
    encoder.zero_grad()
    for one in decoders:
        run(encoder, one, flat)[2].sin().sum().backward()
    for name, parameter in encoder.named_parameters():
        if name not in names:
            torch.testing.assert_close(parameter.grad, together[name])


def test_a_conditioning_moves_and_is_copied():
    encoder, decoder, flat = make()
    with torch.no_grad():
        inputs = BoltzInputs(**flat.inputs, **flat.trunk())
        conditioning = encoder.condition(inputs)
        decoding = decoder.condition(conditioning)
        expected = run(encoder, decoder, flat)
        for again, decode in (
            (conditioning.to("cpu"), decoding.to("cpu")),
            copy.deepcopy((conditioning, decoding)),
            (encoder.condition(inputs.to("cpu")), decoding),
        ):
            encoded = encoder(again, flat.r)
            found = [*encoded, decoder(flat.a, encoded, decode)]
            assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    for moved in (conditioning.to("meta"), decoding.to("meta"), inputs.to("meta")):
        assert all(t.is_meta for t in tensors_of(moved))
    assert not any(t.is_meta for t in tensors_of(conditioning))


def tensors_of(value):
    """All tensors of a dataclass, below its layouts."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for part in value for t in tensors_of(part)]
    if dataclasses.is_dataclass(value) and not hasattr(value, "to_edge_index"):
        fields = [getattr(value, f.name) for f in dataclasses.fields(value)]
        return tensors_of(fields)
    return []


def test_inputs_are_read_of_data_and_replaced():
    _, _, flat = make()
    data = Data(**flat.inputs, s_trunk=flat.s, ptr=torch.tensor([0, 118]))
    inputs = BoltzInputs.from_data(data, z=flat.inputs["z"] + 1, batch=None)
    assert inputs.s_trunk is None and torch.equal(inputs.z, data.z + 1)
    assert inputs.batch is data.batch and inputs.ptr is data.ptr
    more = BoltzInputs.from_data(inputs, s_trunk=flat.s)
    assert more.s_trunk is flat.s and more.z is inputs.z
    with pytest.raises(TypeError, match="s_trunks"):
        BoltzInputs.from_data(data, s_trunks=flat.s)


@pytest.mark.parametrize(
    "backend, depth",
    [("aot_eager", 1), pytest.param("inductor", 2, marks=pytest.mark.slow)],
)
@torch.no_grad()
def test_the_step_compiles(backend, depth):
    sizes = SMALL | {"encoder_depth": depth}
    config = BoltzConfig.boltz2(queries=8, keys=16, **sizes)
    encoder, decoder, flat = make(config, dtype=torch.float32)

    def step(conditioning, decoding, r, a):
        encoded = encoder(conditioning, r)
        return encoded.tokens, decoder(a, encoded, decoding)

    conditioning = encoder.condition(**flat.inputs, **flat.trunk())
    given = (decoder.condition(conditioning), flat.r, flat.a)
    expected = step(conditioning, *given)
    found = torch.compile(step, fullgraph=True, backend=backend)(conditioning, *given)
    if depth > 1:
        # Conditioning reads sizes from the data: it compiles in parts.
        again = torch.compile(encoder.condition)(**flat.inputs, **flat.trunk())
        found += step(again, decoder.condition(again), *given[1:])
        # A decoder that conditions at every call does so in one graph.
        again = torch.compile(step, fullgraph=True)
        found += again(conditioning, conditioning, *given[1:])
    for one, other in zip(found, expected * 3, strict=False):
        close(one, other)


def prepared(conditioning):
    """The pair features and the encoder's biases."""
    pairs = conditioning.pairs.features(slice(None))
    return [pairs, *(bias.values for bias in conditioning.transformer.biases)]


def test_autocast_keeps_the_islands():
    encoder, decoder, flat = make(dtype=torch.float32)
    exact = run(encoder, decoder, flat)
    with torch.autocast("cpu", torch.bfloat16):
        conditioning = encoder.condition(**flat.inputs, **flat.trunk())
        found = run(encoder, decoder, flat)
    plain = encoder.condition(**flat.inputs, **flat.trunk())
    for one, other in zip(*(prepared(c) for c in (conditioning, plain)), strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)
    assert found[0].dtype == torch.float32
    for one, other in zip(found, exact, strict=True):
        assert (one - other).norm() / other.norm() < 0.05


def test_an_empty_token_and_an_empty_graph():
    encoder, decoder, flat = make(samples=1)
    n, t = sum(flat.sizes), int(flat.counts.sum())
    counts = torch.cat([flat.counts, torch.tensor([2])])
    data = Data(ptr=torch.tensor([0, *torch.tensor(flat.sizes).cumsum(0), n]))
    inputs = flat.inputs | {"num_tokens": counts, "batch": None}
    conditioning = encoder.condition(
        data,
        **inputs,
        s_trunk=torch.cat([flat.s, flat.s[:2]]),
        z_trunk=torch.cat([flat.z, flat.z[:4]]),
    )
    found = encoder(conditioning, flat.r)
    expected = run(encoder, decoder, flat)[0]
    torch.testing.assert_close(found.tokens[:, :t], expected, rtol=0, atol=1e-12)
    assert found.tokens[:, t:].eq(0).all()


@pytest.mark.parametrize("grad", [False, True])
def test_nothing_and_no_samples(grad):
    encoder, decoder, flat = make()
    nothing = {
        name: value[:0] for name, value in flat.inputs.items() if name != "num_tokens"
    }
    with torch.set_grad_enabled(grad):
        conditioning = encoder.condition(
            **nothing, num_tokens=0, s_trunk=flat.s[:0], z_trunk=flat.z[:0]
        )
        encoded = encoder(conditioning, flat.r[:, :0])
        assert encoded.tokens.shape == (2, 0, 2 * SIZES["token_s"])
        assert decoder(flat.a[:, :0], encoded, conditioning).shape == (2, 0, 3)
        flat.r, flat.a = flat.r[:0], flat.a[:0]
        assert [len(out) for out in run(encoder, decoder, flat)] == [0, 0, 0]


def test_past_16384_atoms_memory_grows_with_the_atoms_alone(monkeypatch):
    config = BoltzConfig.boltz2("trunk", **SMALL)
    counts, features = [], atom_pairs.AtomPairs.features

    def counted(self, windows):
        out = features(self, windows)
        counts.append(out.size(1))
        return out

    monkeypatch.setattr(atom_pairs.AtomPairs, "features", counted)
    encoder, _, flat = make(config, sizes=(17_000, 3), samples=1, dtype=torch.float32)
    with torch.no_grad():
        tokens = encoder(encoder.condition(**flat.inputs)).tokens
        last = {
            name: value[-3:] if name[:6] != "token_" else value[-1:]
            for name, value in flat.inputs.items()
        }
        last |= {"atom_to_token": last["atom_to_token"] - int(flat.counts[0])}
        alone = encoder.condition(**(last | {"batch": None, "num_tokens": 1}))
        expected = encoder(alone).tokens
    torch.testing.assert_close(tokens[-1:], expected, rtol=1e-4, atol=1e-5)
    # Of all pairs' features, few windows' are there at a time.
    assert (
        sum(counts[:-1]) == 17_000 // 32 + 2
        and max(counts) == pair_bias_attention.CPU_WINDOWS
    )


def test_bad_input():
    encoder, decoder, flat = make()
    trunk, inputs = flat.trunk(), flat.inputs

    def fails(match, **given):
        with pytest.raises(ValueError, match=match):
            encoder.condition(**(inputs | trunk | given))

    fails("'s_trunk' is missing", s_trunk=None)
    fails("'z_trunk' is missing", z_trunk=None)
    fails(r"'s_trunk' needs the shape", s_trunk=flat.s[1:])
    fails("'z_trunk' has .* rows, but graphs of", z_trunk=flat.z[1:])
    fails("'z_trunk' needs the shape", z_trunk=flat.z[:, 1:])
    fails(r"'z_trunk' needs the shape \[3, ", z_trunk=flat.pad_pairs()[:2])
    fails("'num_tokens' is .* for 3 graphs", num_tokens=F.pad(flat.counts, [0, 1]))
    more = {
        "num_tokens": int(flat.counts.sum()) + 1,
        "s_trunk": F.pad(flat.s, [0, 0, 0, 1]),
    }
    fails("'num_tokens' is one number, but", **more)
    fails("which belongs to another graph", num_tokens=flat.counts.flip(0))
    fails("'ref_pos' needs .* BoltzFeatures", ref_pos=None)
    fails(r"'ref_pos' needs the shape \[118, 3\]", ref_pos=inputs["ref_pos"][1:])
    fails("'z' has values from .* to 128", z=inputs["z"] * 0 + 128)
    fails("'z' is of type", z=inputs["z"].double())
    fails(
        "'ref_atom_name_chars' has values from",
        ref_atom_name_chars=-torch.ones(118, 4).long(),
    )
    fails("'ref_space_uid' needs", ref_space_uid=None)
    fails("'atom_to_token' is missing", atom_to_token=None)
    fails("'batch' falls", batch=inputs["batch"].flip(0))
    fails(r"'batch' needs the shape \[118\]", batch=inputs["batch"][1:])
    fails("'ref_pos' is of type list", ref_pos=[1.0])
    fails("'s_trunk' is of type list", s_trunk=[1.0])
    fails("'num_tokens' is 24.5", num_tokens=24.5)
    conditioning = encoder.condition(**inputs, **trunk)
    with pytest.raises(ValueError, match="'conditioning' is of type NoneType"):
        encoder(None, flat.r)
    with pytest.raises(ValueError, match="'r' needs .* found: str"):
        encoder(conditioning, "r")
    for r in (None, flat.r[:, 1:], flat.r[..., :2]):
        with pytest.raises(
            ValueError, match=r"'r' (is missing|needs the shape .*118, 3\])"
        ):
            encoder(conditioning, r)
    encoded = encoder(conditioning, flat.r)
    with pytest.raises(ValueError, match="'a' needs the shape"):
        decoder(flat.a[:, 1:], encoded, conditioning)
    with pytest.raises(ValueError, match="'a' needs .* found: list"):
        decoder([1.0], encoded, conditioning)
    with pytest.raises(ValueError, match="'encoded' is of type Tensor"):
        decoder(flat.a, flat.a, conditioning)
    with pytest.raises(ValueError, match="'config' is of the trunk's form"):
        BoltzAtomDecoder(BoltzConfig.boltz1("trunk"))
    with pytest.raises(ValueError, match="'config' is of type dict"):
        BoltzAtomEncoder({})
    with pytest.raises(ValueError, match="'queries' is 31"):
        BoltzConfig.boltz2(queries=31)
    with pytest.raises(ValueError, match="'keys' is 120"):
        BoltzConfig.boltz2(keys=120)
    with pytest.raises(ValueError, match="'atom_channels' is 10 for 4 heads"):
        BoltzConfig.boltz1(atom_channels=10)
    with pytest.raises(ValueError, match="'part' is 'all'"):
        BoltzConfig.boltz1("all")
    with pytest.raises(ValueError, match="'heads' is 0"):
        BoltzConfig.boltz1(heads=0)
    trunk_encoder, _, _ = make(BoltzConfig.boltz1("trunk", **SMALL))
    conditioning = trunk_encoder.condition(**inputs)
    with pytest.raises(ValueError, match="'r' was passed"):
        trunk_encoder(conditioning, flat.r)
    with pytest.raises(ValueError, match="'s_trunk' was passed"):
        trunk_encoder.condition(**inputs, s_trunk=flat.s)
