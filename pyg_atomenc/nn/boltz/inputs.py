"""What the Boltz encoder reads of a batch: `BoltzInputs`, and its pairs of tokens."""

from dataclasses import dataclass, fields, replace
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch_geometric.index import ptr2index
from torch_geometric.utils import cumsum

from pyg_atomenc.attention import TokenLayout, as_token_layout, take
from pyg_atomenc.checks import check, check_index, check_shape, check_tensor, listed
from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.nn.atom_transformer import TensorDataclass


@dataclass(frozen=True, eq=False)
class BoltzInputs(TensorDataclass):
    """What :meth:`BoltzAtomEncoder.condition` reads of a batch.

    ``N`` atoms, ``T`` tokens and ``G`` graphs, one after the other, nothing padded.
    :class:`~pyg_atomenc.transforms.BoltzFeatures` makes all but the trunk's.

    Args:
        ref_pos, ref_charge, ref_atom_name_chars, ref_space_uid (Tensor): Of every atom,
            as that transform has them; the names where the config does.
        z (Tensor): Atomic numbers ``[N]``.
        atom_to_token (Tensor or TokenLayout): The token of every atom ``[N]``.
        batch (Tensor, optional): Graph of every atom ``[N]``, sorted. (default: all 0)
        ptr (Tensor, optional): First atoms of the graphs, and ``N`` ``[G + 1]``; needed
            where the last graphs have no atoms. (default: seen from ``batch``)
        num_tokens (int or Tensor, optional): The number of tokens; of every graph
            ``[G]`` where there are several and ``z_trunk``. (default: seen from atoms)
        s_trunk (Tensor, optional): Tokens ``[T, token_channels]``; for diffusion alone.
        z_trunk (Tensor, optional): Token pair features, as the pairwise conditioner
            gives them: the ``[n_g, n_g]`` blocks of all graphs flattened to
            ``[sum of n_g ** 2, token_pair_channels]``, or padded
            ``[G, n, n, token_pair_channels]``; needed in the diffusion form.
        backbone, token_res_type, token_modified, token_mol_type (Tensor, optional): As
            that transform has them, where the config does.
    """

    ref_pos: Optional[Tensor] = None
    ref_charge: Optional[Tensor] = None
    z: Optional[Tensor] = None
    ref_atom_name_chars: Optional[Tensor] = None
    ref_space_uid: Optional[Tensor] = None
    atom_to_token: Union[Tensor, TokenLayout, None] = None
    batch: Optional[Tensor] = None
    ptr: Optional[Tensor] = None
    num_tokens: Union[int, Tensor, None] = None
    s_trunk: Optional[Tensor] = None
    z_trunk: Optional[Tensor] = None
    backbone: Optional[Tensor] = None
    token_res_type: Optional[Tensor] = None
    token_modified: Optional[Tensor] = None
    token_mol_type: Optional[Tensor] = None

    @staticmethod
    def from_data(data: Any = None, **inputs: Any) -> "BoltzInputs":
        """Read what ``inputs`` lack, but for the trunk's, from a graph or batch."""
        given = {name: value for name, value in inputs.items() if value is not None}
        if isinstance(data, BoltzInputs):
            return replace(data, **given)
        names = [field.name for field in fields(BoltzInputs)]
        read = {n: getattr(data, n, None) for n in names if not n.endswith("_trunk")}
        return BoltzInputs(**(read | given))

    def shaped(self, name: str, *shape: Union[int, str]) -> Tensor:
        """What has a name, if it was passed and is of a shape."""
        value = getattr(self, name)
        hint = "pass it, or data that has it; the BoltzFeatures transform makes it"
        return check_shape(name, value, *shape, hint=hint if value is None else "")

    def layout(self) -> TokenLayout:
        """Which atoms form a token."""
        number = self.num_tokens
        total = int(number.sum()) if isinstance(number, Tensor) else number
        return as_token_layout(self.atom_to_token, None, total, name="atom_to_token")

    def graph_ptr(self, num_atoms: int) -> Tensor:
        """The first atom of every graph, and the number of atoms ``[G + 1]``."""
        # A graph at the end without atoms does not show in the vector.
        if self.ptr is not None:
            ptr = check_index("ptr", self.ptr, "pass where every graph starts.")
            got = ptr[:1].tolist() + ptr[-1:].tolist()
            check(got == [0, num_atoms], f"'ptr' has ends {got} for {num_atoms} atoms.")
            return ptr.long()
        if self.batch is None:
            return torch.tensor([0, num_atoms])
        batch = check_index("batch", self.batch, "pass the graph of every atom.")
        check_shape("batch", batch, num_atoms)
        text = "'batch' falls: sort the atoms by graph, as PyG's batches are."
        check((batch.diff() >= 0).all(), text)
        return cumsum(batch.long().bincount())

    def token_counts(self, layout: TokenLayout, ptr: Tensor) -> Tensor:
        """Tokens of every graph ``[G]``."""
        graphs, number = ptr.numel() - 1, self.num_tokens
        # One number is that of a single graph.
        if not isinstance(number, Tensor) or number.dim() == 0:
            number = torch.full((min(graphs, 1),), layout.num_tokens)
        counts = number.to(layout.device).long()
        found = f"'num_tokens' is {listed(counts.tolist())} for {graphs} graphs"
        mend = f"with {layout.num_tokens} tokens: pass one number for every graph."
        fits = counts.shape == (graphs,) and int(counts.sum()) == layout.num_tokens
        check(fits, f"{found} {mend}")
        graph, token = ptr2index(ptr), layout.atom_to_token
        first = cumsum(counts)
        strange = (token < first[graph]) | (token >= first[graph + 1])
        if bool(strange.any()):
            atom = int(strange.nonzero()[0])
            found = f"'atom_to_token' puts atom {atom} into token {int(token[atom])}"
            mend = "which belongs to another graph: number the tokens graph by graph."
            raise AtomEncodingError(f"{found}, {mend}")
        return counts


@dataclass(frozen=True, eq=False)
class TokenPairs(TensorDataclass):
    """Rows of token pair features, and where those of two atoms are found."""

    values: Tensor  # the rows [R, C]
    row: Tensor  # for every atom as a query, where its token's rows start [N]
    column: Tensor  # for every atom as a key, what to add [N]
    rank: Optional[Tensor] = None  # a row's place in values, where not all are kept

    @staticmethod
    def from_inputs(
        inputs: BoltzInputs, layout: TokenLayout, ptr: Tensor, channels: int
    ) -> "TokenPairs":
        """Read ``z_trunk`` of all graphs, whose atoms start at ``ptr`` ``[G + 1]``."""
        counts = inputs.token_counts(layout, ptr)
        z_trunk = check_tensor("z_trunk", inputs.z_trunk)
        if z_trunk.dim() == 4:
            width = max([z_trunk.size(1), *counts.tolist()])
            sizes = (counts.numel(), width, width, channels)
            check_shape("z_trunk", z_trunk, *sizes, hint="blocks of every graph")
            stride = torch.full_like(counts, width)
        else:
            stride, total = counts, int((counts**2).sum())
            hint = "the [n, n] blocks of graphs of n tokens, one after the other, flat"
            check_shape("z_trunk", z_trunk, total, channels, hint=hint)
        graph = ptr2index(ptr)
        local = layout.atom_to_token - cumsum(counts)[graph]
        row = cumsum(stride**2)[graph] + local * stride[graph]
        return TokenPairs(z_trunk.reshape(-1, channels), row, local)

    def index(self, query: Tensor, key: Tensor) -> Tensor:
        """The rows of queries ``[k, W]`` and keys ``[k, H]``, as ``[k * W * H]``."""
        start, step = take(self.row, query), take(self.column, key)
        index = (start.unsqueeze(2) + step.unsqueeze(1)).flatten()
        return index if self.rank is None else self.rank.index_select(0, index)
