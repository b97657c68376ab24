"""Any grouping, batching and size gives the same."""

import copy

import pytest
import torch
from boltz_oracle import SIZES, SMALL, make, run
from torch.nn.utils import parametrize, prune
from torch_geometric.data import Data

from pyg_atomenc.attention.dense import windows as dense_windows
from pyg_atomenc.nn import BoltzConfig, pair_bias_attention
from pyg_atomenc.nn.boltz import atom_encoder, embedding


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
        monkeypatch.setattr(embedding, "MAX_ROWS", rows)
        monkeypatch.setattr(dense_windows, "CPU_WINDOWS", windows)
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
    counts, features = [], embedding.AtomPairs.features

    def counted(self, windows):
        out = features(self, windows)
        counts.append(out.size(1))
        return out

    monkeypatch.setattr(embedding.AtomPairs, "features", counted)
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


class Adapted(torch.nn.Linear):
    """Adds something of its own to a layer that it replaces."""

    def __init__(self, base):
        super().__init__(base.in_features, base.out_features, base.bias is not None)
        self.load_state_dict(base.state_dict())

    def forward(self, x):
        return 2 * super().forward(x)


class Doubled(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrized(base):
    parametrize.register_parametrization(base, "weight", Doubled())
    return base


def doubled(base):
    with torch.no_grad():
        base.weight.mul_(2)
    return base


# Whose weights are multiplied with others, so that nobody calls the layers.
FOLDED = {
    "lin": lambda e: (e.features, "lin"),
    "lin_position": lambda e: (e.pairs, "lin_position"),
    "lin_distance": lambda e: (e.pairs, "lin_distance"),
    "lin_same": lambda e: (e.pairs, "lin_same"),
    "mlp": lambda e: (e.pairs.mlp, "1"),
    "lins": lambda e: (e.transformer.pair_bias.lins, "0"),
    "lin_noisy": lambda e: (e, "lin_noisy"),
}


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("name", FOLDED)
def test_what_is_folded_takes_no_adapter_but_a_parametrization(name):
    encoder, decoder, flat = make()
    parent, attribute = FOLDED[name](encoder)
    base, found = getattr(parent, attribute), []
    for change in (doubled, parametrized):
        setattr(parent, attribute, change(copy.deepcopy(base)))
        found.append(run(encoder, decoder, flat))
    torch.testing.assert_close(*found)
    replaced = (
        Adapted,
        torch.nn.Sequential,
        torch.nn.utils.weight_norm,
        lambda base: prune.random_unstructured(base, "weight", 0.5),
    )
    for change in replaced:
        setattr(parent, attribute, change(copy.deepcopy(base)))
        with pytest.raises(ValueError, match=f"'{name}' .* has .*torch.nn.Linear"):
            run(encoder, decoder, flat)
