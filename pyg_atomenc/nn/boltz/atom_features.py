"""`AtomFeatureEmbedding`: what an atom is, as Boltz encodes it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.checks import check_range, check_shape
from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.nn.boltz.config import NAME_CHARACTERS, NAME_LENGTH, BoltzConfig
from pyg_atomenc.nn.boltz.inputs import BoltzInputs


class AtomFeatureEmbedding(torch.nn.Module):
    """A linear layer on one-hot features, without forming them.

    Args:
        config (BoltzConfig): Which features there are.
    """

    def __init__(self, config: BoltzConfig) -> None:
        super().__init__()
        self.widths = config.features
        self.lin = torch.nn.Linear(
            sum(self.widths.values()), config.atom_channels, bias=config.feature_bias
        )

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self.lin.reset_parameters()

    def forward(self, inputs: BoltzInputs, layout: TokenLayout) -> Tensor:
        """Embed.

        Args:
            inputs (BoltzInputs): What was passed.
            layout (TokenLayout): The tokens of the atoms.

        Returns:
            Tensor: ``[N, atom_channels]``.

        Raises:
            ValueError: If a feature is missing, or out of its range.
        """
        parts = self.lin.weight.split(list(self.widths.values()), dim=1)
        weights = dict(zip(self.widths, parts, strict=True))
        dtype, count = self.lin.weight.dtype, layout.num_atoms
        position = _shaped(inputs, "ref_pos", count, 3).to(dtype)
        charge = _shaped(inputs, "ref_charge", count).to(dtype)
        out = F.linear(position, weights["ref_pos"], self.lin.bias)
        out = out + charge.unsqueeze(1) * weights["ref_charge"].T
        if "mask" in weights:
            out = out + weights["mask"].T
        out = out + _lookup(inputs, "z", count, weights)
        if "ref_atom_name_chars" in weights:
            shape = (count, NAME_LENGTH)
            names = _codes(inputs, "ref_atom_name_chars", NAME_CHARACTERS, *shape)
            columns = weights["ref_atom_name_chars"].split(NAME_CHARACTERS, dim=1)
            for code, column in zip(names.unbind(1), columns, strict=True):
                out = out + F.embedding(code, column.T)
        if "backbone" in weights:
            out = out + _lookup(inputs, "backbone", count, weights)
        if "token_res_type" in weights:
            count = layout.num_tokens
            residue = _lookup(inputs, "token_res_type", count, weights)
            modified = _shaped(inputs, "token_modified", count).to(dtype)
            residue = residue + modified.unsqueeze(1) * weights["token_modified"].T
            residue = residue + _lookup(inputs, "token_mol_type", count, weights)
            out = out + residue.index_select(0, layout.atom_to_token)
        return out

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.lin.in_features}, {self.lin.out_features})"


def _lookup(
    inputs: BoltzInputs, name: str, count: int, weights: dict[str, Tensor]
) -> Tensor:
    weight = weights[name]
    return F.embedding(_codes(inputs, name, weight.size(1), count), weight.T)


def _codes(inputs: BoltzInputs, name: str, kinds: int, *shape: int) -> Tensor:
    codes = _shaped(inputs, name, *shape)
    if codes.dtype.is_floating_point:
        raise AtomEncodingError(
            f"'{name}' is of type {codes.dtype}: pass integer codes, not one-hot rows."
        )
    if not torch.compiler.is_compiling():
        check_range(name, codes.long(), kinds, "kinds")
    return codes.long()


def _shaped(inputs: BoltzInputs, name: str, *shape: int) -> Tensor:
    value = getattr(inputs, name)
    hint = "pass it, or data that has it; the BoltzFeatures transform makes it"
    return check_shape(name, value, *shape, hint="" if value is not None else hint)
