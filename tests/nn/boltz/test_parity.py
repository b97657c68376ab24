"""Encoder and decoder equal those of the `boltz` package."""

import pytest
import torch
from boltz_oracle import Boltz1, Boltz2, Flat, close, require_boltz

from pyg_atomenc.checkpoints import load_boltz, to_boltz_state_dict

RAGGED = [1, 31, 33, 100]
LARGE = [1, 31, 33, 500, 2000]


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
