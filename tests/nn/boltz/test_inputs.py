"""What is read, and what is said about what cannot be."""

import pytest
import torch
from boltz_oracle import SMALL, make
from torch.nn import functional as F
from torch_geometric.data import Data

from pyg_atomenc.nn import BoltzAtomDecoder, BoltzAtomEncoder, BoltzConfig, BoltzInputs


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


def test_bad_input():
    encoder, decoder, flat = make()
    trunk, inputs = flat.trunk(), flat.inputs

    def fails(match, **given):
        with pytest.raises(ValueError, match=match):
            encoder.condition(**(inputs | trunk | given))

    fails("'s_trunk' is missing", s_trunk=None)
    fails("'z_trunk' is missing", z_trunk=None)
    fails(r"'s_trunk' needs the shape", s_trunk=flat.s[1:])
    fails("'z_trunk' needs the shape .*blocks of graphs", z_trunk=flat.z[1:])
    fails("'z_trunk' needs the shape", z_trunk=flat.z[:, 1:])
    fails(r"'z_trunk' needs the shape \[3, ", z_trunk=flat.pad_pairs()[:2])
    fails("'num_tokens' is .* for 3 graphs", num_tokens=F.pad(flat.counts, [0, 1]))
    more = {
        "num_tokens": int(flat.counts.sum()) + 1,
        "s_trunk": F.pad(flat.s, [0, 0, 0, 1]),
    }
    fails("'num_tokens' is .* for 3 graphs", **more)
    fails("'num_tokens' is .* for 3 graphs", num_tokens=None)
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
    fails("'atom_to_token' is of type NoneType", atom_to_token=None)
    fails("'batch' falls", batch=inputs["batch"].flip(0))
    fails(r"'batch' needs the shape \[118\]", batch=inputs["batch"][1:])
    fails("'ref_pos' needs .* found: list", ref_pos=[1.0])
    fails("'s_trunk' needs .* found: list", s_trunk=[1.0])
    fails("'ptr' is of type list", ptr=[0, 118])
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
