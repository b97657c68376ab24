"""Layers with parameters, and the graph of tokens."""

from pyg_atomenc.nn.atom_attention_encoder import AtomAttentionEncoder
from pyg_atomenc.nn.atom_transformer import AtomTransformer
from pyg_atomenc.nn.boltz.atom_encoder import (
    BoltzAtomDecoder,
    BoltzAtomEncoder,
    BoltzConditioning,
    BoltzDecoderConditioning,
)
from pyg_atomenc.nn.boltz.config import BoltzConfig
from pyg_atomenc.nn.boltz.inputs import BoltzInputs
from pyg_atomenc.nn.molecule_encoder import MoleculeEncoder
from pyg_atomenc.nn.token_attention_conv import TokenAttentionConv
from pyg_atomenc.nn.token_graph import token_graph

__all__ = [
    "AtomAttentionEncoder", "AtomTransformer", "BoltzAtomDecoder", "BoltzAtomEncoder",
    "BoltzConditioning", "BoltzConfig", "BoltzDecoderConditioning", "BoltzInputs",
    "MoleculeEncoder", "TokenAttentionConv", "token_graph",
]  # fmt: skip
