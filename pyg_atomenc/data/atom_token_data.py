"""`AtomTokenData`: a graph of atoms that also knows its tokens."""

from typing import Any, Optional

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.utils import subgraph

import pyg_atomenc.checks as checks
from pyg_atomenc.attention import TokenLayout, check_token_index
from pyg_atomenc.data.bonds import read_bonds
from pyg_atomenc.data.storage import AtomTokenStorage, is_token_attr
from pyg_atomenc.errors import AtomEncodingError

# Where a batch carries the layout that its loader built.
LAYOUT_KEY = "built_layout"


class AtomTokenData(Data):
    r"""A graph whose nodes are atoms, each of which belongs to one token.

    It batches with PyG's :class:`~torch_geometric.loader.DataLoader` as any
    :class:`~torch_geometric.data.Data` does, and in addition

    * ``atom_to_token`` of each further graph is shifted by the ``num_tokens`` of the
      graphs before it, so that no two share a token and trailing empty ones are kept;
    * attributes named ``token_*`` are concatenated over the tokens, unshifted, but for
      ``token_edge_index``, which is shifted by tokens, and ``token_batch``, by graphs;
    * masking transforms and :meth:`subgraph` leave ``token_*`` alone even where there
      are as many tokens as atoms; what names pairs of atoms, ``pair_attr`` and
      ``radius_*``, keeps the pairs of which both are left.

    Args:
        x (Tensor, optional): Atom features ``[N, C]``. (default: ``None``)
        edge_index (Tensor, optional): Bonds ``[2, E]``, int64. (default: ``None``)
        edge_attr (Tensor, optional): Bond features ``[E, D]``. (default: ``None``)
        y (Tensor, optional): Labels. (default: ``None``)
        pos (Tensor, optional): Positions ``[N, 3]`` in ångström. (default: ``None``)
        time (Tensor, optional): As in PyG. (default: ``None``)
        atom_to_token (Tensor, optional): The token of every atom ``[N]``, int64 with
            values in ``[0, num_tokens)``, in any order. (default: ``None``)
        num_tokens (int, optional): The number of tokens ``T``, empty ones included.
            (default: ``atom_to_token.max() + 1``)
        **kwargs: Further attributes.

    Raises:
        ValueError: If ``atom_to_token`` is no vector of integers in
            ``[0, num_tokens)``.
    """

    def __init__(
        self,
        x: Optional[Tensor] = None,
        edge_index: Optional[Tensor] = None,
        edge_attr: Optional[Tensor] = None,
        y: Any = None,
        pos: Optional[Tensor] = None,
        time: Optional[Tensor] = None,
        *,
        atom_to_token: Optional[Tensor] = None,
        num_tokens: Optional[int] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(x, edge_index, edge_attr, y, pos, time, **kwargs)
        self.__dict__["_store"] = AtomTokenStorage(self._store, _parent=self)
        if atom_to_token is not None:
            self.num_tokens = check_token_index(atom_to_token, num_tokens)
            self.atom_to_token = atom_to_token
        elif num_tokens is not None:
            self.num_tokens = num_tokens

    @property
    def total_num_tokens(self) -> int:
        """Tokens of this graph, or of all graphs where this is a batch."""
        mend = "set it with 'atom_to_token', so that graphs can be batched."
        checks.check_has(self, mend, "num_tokens")
        num_tokens = self.num_tokens
        return int(num_tokens.sum() if isinstance(num_tokens, Tensor) else num_tokens)

    @property
    def token_batch(self) -> Tensor:
        """The graph of every token ``[T]``, int64; zeros where this is no batch."""
        stored = self._store.get("token_batch")
        if stored is not None:
            return stored
        index = self._store.get("atom_to_token")
        device = index.device if isinstance(index, Tensor) else None
        total = self.total_num_tokens
        # One number for each graph, or the only graph's.
        sizes = torch.as_tensor(self.num_tokens, device=device).flatten()
        graphs = torch.arange(sizes.numel(), device=device)
        return graphs.repeat_interleave(sizes, output_size=total)

    @token_batch.setter
    def token_batch(self, value: Tensor) -> None:
        self._store["token_batch"] = value

    def token_layout(self) -> TokenLayout:
        """The layout of this graph's or batch's tokens, for any layer that takes one.

        It is built at every call, so keep it for the batch, best before that moves to a
        GPU: ``layout = batch.token_layout().to(device)``. A batch from a
        :class:`~pyg_atomenc.data.AtomTokenLoader` carries its layout, handed out here.
        """
        stored = self._store.get(LAYOUT_KEY)
        if stored is not None:
            return stored
        self._check_has_tokens()
        return TokenLayout.from_index(
            self.atom_to_token, self.total_num_tokens, batch=self._store.get("batch")
        )

    def validate(self, raise_on_error: bool = True) -> bool:
        """Check bonds, token assignment and the length of every token attribute.

        Args:
            raise_on_error (bool): Raise, else return ``False``. (default: ``True``)

        Returns:
            bool: Whether everything holds.

        Raises:
            ValueError: If something does not hold and ``raise_on_error``.
        """
        try:
            super().validate(raise_on_error=True)
            self._validate_tokens()
        except ValueError:
            if raise_on_error:
                raise
            return False
        return True

    def subgraph(self, subset: Tensor) -> "AtomTokenData":
        """The graph of some atoms, and of the bonds and pairs between them.

        Args:
            subset (Tensor): The atoms to keep, as a mask ``[N]`` or as indices.

        Returns:
            AtomTokenData: With the same tokens, of which some may be empty.
        """
        self._check_has_tokens()
        out = super().subgraph(subset)
        options: Any = {"relabel_nodes": True, "num_nodes": self.atom_to_token.numel()}
        if "radius_edge_index" in self:
            out.radius_edge_index, out.radius_distance = subgraph(
                subset, self.radius_edge_index, self.radius_distance, **options
            )
        if "pair_attr" in self:
            pairs = self.token_layout().to_edge_index()
            known, rows = subgraph(subset, pairs, self.pair_attr, **options)
            # The new layout may list the pairs that are left in another order.
            count = out.atom_to_token.numel()
            order = (known[0] * count + known[1]).argsort()
            source, target = out.token_layout().to_edge_index()
            rank = (source * count + target).argsort().argsort()
            out.pair_attr = rows[order][rank]
        return out

    def _check_has_tokens(self) -> None:
        mend = "set it to the token of every atom, for example torch.arange(num_atoms)."
        checks.check_has(self, mend, "atom_to_token")

    def _validate_tokens(self) -> None:
        self._check_has_tokens()
        total, num_atoms = self.total_num_tokens, self.num_nodes
        assert num_atoms is not None, "PyG's own validation refuses this"
        check_token_index(self.atom_to_token, total, batch=self._store.get("batch"))
        atoms = ("atom_to_token", "z", "pos", "x", "formal_charge")
        rows = dict.fromkeys(atoms, (num_atoms, "atoms"))
        for key, value in self._store.items():
            own = key.startswith("token_") and not key.startswith("token_edge_")
            if own and isinstance(value, Tensor) and value.dim() > 0:
                rows[key] = (total, "tokens")
        _check_rows_of(self, rows)
        rows = {}
        for key, attr, count, what in (
            ("token_edge_index", "token_edge_attr", total, "tokens"),
            ("radius_edge_index", "radius_distance", num_atoms, "atoms"),
        ):
            if key in self:
                edges = checks.check_edges(key, self[key], count, what)
                rows[attr] = (edges.size(1), f"edges in '{key}'")
        if "pair_attr" in self:
            pairs = self.token_layout().num_pairs
            rows["pair_attr"] = (pairs, "pairs of atoms in tokens")
        _check_rows_of(self, rows, "make it anew from this graph.")

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """How much the next graph's values shift when graphs are batched."""
        if key in ("atom_to_token", "token_edge_index"):
            return self.total_num_tokens
        if is_token_attr(key):
            return int(key == "token_batch")
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """The dimension along which an attribute is concatenated."""
        if is_token_attr(key):
            return -1 if key == "token_edge_index" else 0
        return super().__cat_dim__(key, value, *args, **kwargs)


def check_graph(data: Any) -> tuple[Tensor, Optional[Tensor]]:
    """The bonds of a graph that a transform can work with, else a ValueError.

    It knows its tokens, its bonds join atoms that are there, and what belongs to atoms,
    bonds or tokens has as many rows. What transforms make anew, edges by distance and
    features of pairs, is left to :meth:`AtomTokenData.validate`.
    """
    _check_type(data)
    data._check_has_tokens()
    atoms = ("z", "pos", "formal_charge", "num_hydrogens")
    rows = dict.fromkeys(atoms, (data.atom_to_token.numel(), "atoms"))
    _check_rows_of(data, rows)
    return read_bonds(data)


def check_pos(data: Any, why: str, name: str = "pos") -> Tensor:
    """The positions ``[N, 3]`` of a graph; a ValueError, with ``why``, without."""
    _check_type(data)
    checks.check_has(data, why, name)
    checks.check_shape(name, data[name], "N", 3, hint="positions in ångström")
    pos = checks.check_floating(name, data[name])
    if pos.numel() and not bool(pos.isfinite().all(1).any()):
        raise AtomEncodingError(f"'{name}' holds no known position: {why}")
    return pos


def check_single(data: Any, kind: type[Any] = AtomTokenData) -> None:
    """Raise a ValueError unless this is one graph of a kind, and no batch."""
    if not isinstance(data, kind) or isinstance(data, Batch):
        raise AtomEncodingError(
            f"'data' is of type {type(data).__name__}: pass one {kind.__name__}; of a "
            f"batch batch[i]."
        )


def _check_type(data: Any) -> None:
    mend = "pass an AtomTokenData, as readers give."
    checks.check_type("data", data, AtomTokenData, mend)


def _check_rows_of(
    data: AtomTokenData, rows: dict[str, tuple[int, str]], *mend: str
) -> None:
    for key, (count, what) in rows.items():
        value = data.get(key)
        if isinstance(value, Tensor):
            checks.check_rows(key, value, count, what, *mend)
