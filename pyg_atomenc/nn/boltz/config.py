"""`BoltzConfig`: the sizes and options by which the Boltz versions differ."""

from dataclasses import dataclass, fields
from typing import Any

from pyg_atomenc.attention import WindowLayout
from pyg_atomenc.checks import check_choice, check_heads, check_integer, check_sizes

NAME_CHARACTERS, NAME_LENGTH = 64, 4


@dataclass(frozen=True)
class BoltzConfig:
    """Sizes and options of :class:`BoltzAtomEncoder` and :class:`BoltzAtomDecoder`.

    :meth:`boltz1` and :meth:`boltz2` give those of the two versions.

    Args:
        diffusion (bool): The form inside the diffusion model, which takes trunk
            features and noisy coordinates; else the one that embeds the trunk's inputs.
        feature_bias (bool): Whether the embedding of the atom features has a bias.
        mask_feature (bool): Whether it has a feature that is 1 for every atom.
        position_channels (int): Of the noisy coordinates; all past the third are zero.
        shared_pair_norm (bool): Whether encoder layers share the pairs' LayerNorm.
        atom_names (bool): Whether the characters of the atoms' names are features.
        backbone, residue (bool): Whether kinds of backbone atoms are, and residues'.
        post_norm (bool): Whether layers end with a LayerNorm.
        atom_channels, pair_channels (int): Of atoms and pairs, ``atom_s``, ``atom_z``.
        token_channels, token_pair_channels (int): Trunk's ``token_s`` and ``token_z``.
        queries, keys (int): Queries ``W`` and keys ``H`` of a window.
        heads (int): Number of heads.
        encoder_depth, decoder_depth (int): Layers of the encoder and of the decoder.

    Raises:
        ValueError: If a size is not positive, or the windows break their rules.
    """

    diffusion: bool = True
    feature_bias: bool = True
    mask_feature: bool = False
    position_channels: int = 3
    shared_pair_norm: bool = False
    atom_names: bool = True
    backbone: bool = False
    residue: bool = False
    post_norm: bool = False
    atom_channels: int = 128
    pair_channels: int = 16
    token_channels: int = 384
    token_pair_channels: int = 128
    queries: int = 32
    keys: int = 128
    heads: int = 4
    encoder_depth: int = 3
    decoder_depth: int = 3

    def __post_init__(self) -> None:
        numbers = [f.name for f in fields(self) if f.type is int]
        check_sizes(**{name: getattr(self, name) for name in numbers})
        WindowLayout.check_sizes(self.queries, self.keys)
        check_heads("atom_channels", self.atom_channels, self.heads)
        check_integer("position_channels", self.position_channels, least=3)

    @staticmethod
    def boltz1(part: str = "diffusion", **options: Any) -> "BoltzConfig":
        """Boltz-1 in its ``"diffusion"`` or ``"trunk"`` part, but for ``options``."""
        own = {"feature_bias": False, "mask_feature": True, "position_channels": 10}
        return BoltzConfig.boltz2(part, **({"shared_pair_norm": False} | own | options))

    @staticmethod
    def boltz2(part: str = "diffusion", **options: Any) -> "BoltzConfig":
        """Boltz-2; arguments as for :meth:`boltz1`."""
        check_choice("part", part, ("trunk", "diffusion"))
        own = {"diffusion": part == "diffusion", "shared_pair_norm": part == "trunk"}
        return BoltzConfig(**(own | options))

    @property
    def version(self) -> int:
        """Whose parameters these are: Boltz-1's embedding of atoms has no bias."""
        return 2 if self.feature_bias else 1

    @property
    def features(self) -> dict[str, int]:
        """The parts of an atom's features in their order, with their widths."""
        parts = (
            ("ref_pos", 3, True),
            ("ref_charge", 1, True),
            ("mask", 1, self.mask_feature),
            ("z", 128, True),
            ("ref_atom_name_chars", NAME_LENGTH * NAME_CHARACTERS, self.atom_names),
            ("backbone", 17, self.backbone),
            ("token_res_type", 33, self.residue),
            ("token_modified", 1, self.residue),
            ("token_mol_type", 4, self.residue),
        )
        return {name: width for name, width, there in parts if there}

    @property
    def out_channels(self) -> int:
        """Channels of the encoded tokens."""
        return self.token_channels * (2 if self.diffusion else 1)
