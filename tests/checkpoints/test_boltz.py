import pytest
import torch
from boltz_oracle import SIZES, Boltz1, Boltz2, require_boltz

from pyg_atomenc.checkpoints import load_boltz, to_boltz_state_dict
from pyg_atomenc.nn import BoltzAtomDecoder, BoltzAtomEncoder, BoltzConfig
from pyg_atomenc.nn.boltz.config import BoltzConfig as Config

SMALL = {"atom_channels": 8, "pair_channels": 4, "token_channels": 6, "heads": 2}


def filled(config):
    layers = [BoltzAtomEncoder(config)]
    if config.diffusion:
        layers.append(BoltzAtomDecoder(config))
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.normal_()
    return layers


def configs():
    for make in (BoltzConfig.boltz1, BoltzConfig.boltz2):
        for part in ("trunk", "diffusion"):
            yield make(part, **SMALL, encoder_depth=2, decoder_depth=1)
    yield BoltzConfig.boltz2(**SMALL, post_norm=True, backbone=True)
    yield BoltzConfig.boltz2(**SMALL, atom_names=False, residue=True)


@pytest.mark.parametrize("config", list(configs()))
@pytest.mark.parametrize("how", ["plain", "compiled", "safetensors", "lightning"])
def test_there_and_back(config, how, tmp_path):
    layers = filled(config)
    state = to_boltz_state_dict(*layers)
    given = state
    if how == "compiled":
        given = {
            name.replace("encoder.", "encoder._orig_mod.", 1): tensor
            for name, tensor in state.items()
        }
    if how == "safetensors":
        given = tmp_path / "model.safetensors"
        pytest.importorskip("safetensors.torch").save_file(state, given)
    if how == "lightning":
        given = tmp_path / "model.ckpt"
        torch.save({"state_dict": state | {"other.weight": torch.ones(1)}}, given)
    part = "diffusion" if config.diffusion else "trunk"
    found = [layer for layer in load_boltz(given, part) if layer is not None]
    assert len(found) == len(layers)
    for one, other in zip(found, layers, strict=True):
        expected = other.state_dict()
        assert one.state_dict().keys() == expected.keys()
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
    again = to_boltz_state_dict(*found)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert found[0].config.version == config.version


@pytest.mark.parametrize("oracle", [Boltz1, Boltz2])
@pytest.mark.parametrize("part", ["trunk", "diffusion"])
def test_the_state_dict_of_boltz_itself_comes_back_whole(oracle, part):
    require_boltz()
    state = oracle(part).state_dict()
    layers = [layer for layer in load_boltz(state, part) if layer is not None]
    found = to_boltz_state_dict(*layers)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert layers[0].config.token_channels == SIZES["token_s"]


def test_the_state_dict_of_the_bare_module_of_boltz1():
    require_boltz()
    oracle = Boltz1("diffusion")
    encoder, decoder = load_boltz(oracle.encoder.state_dict())
    assert decoder is None
    whole, _ = load_boltz(oracle.state_dict())
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name])
    with pytest.raises(ValueError, match="'part' is 'trunk', but"):
        load_boltz(oracle.encoder.state_dict(), "trunk")


def test_bad_input():
    config = Config.boltz2(**SMALL)
    state = to_boltz_state_dict(*filled(config))
    with pytest.raises(ValueError, match="'part' is 'all'"):
        load_boltz(state, "all")
    with pytest.raises(ValueError, match="neither Boltz-1 nor Boltz-2"):
        load_boltz({"a": torch.ones(1)})
    with pytest.raises(ValueError, match="part='trunk' needs"):
        load_boltz(state, "trunk")
    missing = dict(state)
    name = "diffusion_conditioning.atom_encoder.p_mlp.3.weight"
    del missing[name]
    with pytest.raises(ValueError, match=f"lacks '{name}'"):
        load_boltz(missing)
    extra = state | {"structure_module.score_model.atom_attention_encoder.x": name}
    extra = {k: torch.ones(1) if v is name else v for k, v in extra.items()}
    with pytest.raises(ValueError, match="that nothing reads: .*encoder.x'"):
        load_boltz(extra)
    wrong = dict(state)
    wrong[name] = torch.ones(3, 3)
    with pytest.raises(ValueError, match=r"\[3, 3\] for \[4, 4\]"):
        load_boltz(wrong)
    wrong = dict(state)
    name = "diffusion_conditioning.atom_encoder.embed_atom_features.weight"
    wrong[name] = torch.ones(8, 300)
    with pytest.raises(ValueError, match="embeds 300 atom features"):
        load_boltz(wrong)
    with pytest.raises(ValueError, match="'keys' is 100"):
        load_boltz(state, keys=100)
