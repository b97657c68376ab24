"""What is computed once: fresh when asked for, whole, trainable, movable, compiled."""

import copy
import dataclasses

import pytest
import torch
from boltz_oracle import SMALL, close, fill, make, run
from torch.optim import swa_utils

from pyg_atomenc.nn import BoltzConfig, BoltzInputs


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
