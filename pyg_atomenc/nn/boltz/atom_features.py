"""`AtomFeatureEmbedding`: what an atom is, as Boltz encodes it."""

from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.nn.boltz.config import NAME_CHARACTERS, NAME_LENGTH, BoltzConfig


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

    def forward(self, features: dict[str, Optional[Tensor]], token: Tensor) -> Tensor:
        """Embed.

        Args:
            features (dict): The tensors of :meth:`BoltzAtomEncoder.condition` by name.
            token (Tensor): The token of every atom ``[N]``.

        Returns:
            Tensor: ``[N, atom_channels]``.

        Raises:
            ValueError: If a feature is missing, or out of its range.
        """
        weights = dict(
            zip(
                self.widths,
                self.lin.weight.split(list(self.widths.values()), dim=1),
                strict=True,
            )
        )
        dtype = self.lin.weight.dtype
        count = token.numel()
        position = _present(features, "ref_pos", (count, 3)).to(dtype)
        charge = _present(features, "ref_charge", (count,)).to(dtype)
        out = F.linear(position, weights["ref_pos"], self.lin.bias)
        out = out + charge.unsqueeze(1) * weights["ref_charge"].T
        if "mask" in weights:
            out = out + weights["mask"].T
        out = out + _lookup(features, "z", count, weights["z"])
        if "ref_atom_name_chars" in weights:
            names = _codes(
                features,
                "ref_atom_name_chars",
                (count, NAME_LENGTH),
                NAME_CHARACTERS,
            )
            columns = weights["ref_atom_name_chars"].split(NAME_CHARACTERS, dim=1)
            for code, column in zip(names.unbind(1), columns, strict=True):
                out = out + F.embedding(code, column.T)
        if "backbone" in weights:
            out = out + _lookup(features, "backbone", count, weights["backbone"])
        if "token_res_type" in weights:
            out = out + self._residue(features, weights).index_select(0, token)
        return out

    def _residue(
        self, features: dict[str, Optional[Tensor]], weights: dict[str, Tensor]
    ) -> Tensor:
        res_type = features.get("token_res_type")
        count = 0 if res_type is None else res_type.size(0)
        out = _lookup(features, "token_res_type", count, weights["token_res_type"])
        modified = _present(features, "token_modified", (count,)).to(out.dtype)
        out = out + modified.unsqueeze(1) * weights["token_modified"].T
        return out + _lookup(
            features, "token_mol_type", count, weights["token_mol_type"]
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.lin.in_features}, {self.lin.out_features})"


def _lookup(
    features: dict[str, Optional[Tensor]], name: str, count: int, weight: Tensor
) -> Tensor:
    return F.embedding(_codes(features, name, (count,), weight.size(1)), weight.T)


def _codes(
    features: dict[str, Optional[Tensor]],
    name: str,
    shape: tuple[int, ...],
    kinds: int,
) -> Tensor:
    codes = _present(features, name, shape)
    if codes.dtype.is_floating_point:
        raise AtomEncodingError(
            f"'{name}' is of type {codes.dtype}: pass integer codes, not one-hot rows."
        )
    codes = codes.long()
    if not torch.compiler.is_compiling() and codes.numel():
        low, high = (int(end) for end in codes.aminmax())
        if low < 0 or high >= kinds:
            raise AtomEncodingError(
                f"'{name}' goes from {low} to {high}: pass codes from 0 to {kinds - 1}."
            )
    return codes


def _present(
    features: dict[str, Optional[Tensor]], name: str, shape: tuple[int, ...]
) -> Tensor:
    tensor = features.get(name)
    if tensor is None:
        raise AtomEncodingError(
            f"'{name}' is missing: pass it, or data that has it; the BoltzFeatures "
            f"transform makes it."
        )
    if tensor.shape != shape:
        raise AtomEncodingError(
            f"'{name}' needs the shape {list(shape)}, found: {list(tensor.shape)}."
        )
    return tensor
