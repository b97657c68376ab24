"""`AtomTokenData`: a graph of atoms that also knows its tokens."""

from collections.abc import Iterable
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

import pyg_atomenc.checks as checks
import pyg_atomenc.data.storage as storage
from pyg_atomenc.attention import TokenLayout, check_token_index
from pyg_atomenc.data.bonds import read_bonds
from pyg_atomenc.data.editing import drop_empty_tokens, keep_atoms
from pyg_atomenc.data.names import Names
from pyg_atomenc.errors import AtomEncodingError


class AtomTokenData(Data):
    r"""A graph whose nodes are atoms, each of which belongs to one token.

    It batches by PyG's :class:`~torch_geometric.loader.DataLoader` as any ``Data``, and

    * ``atom_to_token`` of each further graph is shifted by the ``num_tokens`` of the
      graphs before it, so that no two share a token and trailing empty ones are kept;
    * attributes named ``token_*`` are concatenated over the tokens, unshifted, but for
      ``token_edge_index``, which is shifted by tokens, and ``token_batch``, by graphs;
    * masking transforms and :meth:`subgraph` leave ``token_*`` alone, even of as many
      tokens as atoms; ``pair_attr`` and ``radius_*`` keep pairs of atoms that are left.

    Args:
        x, edge_index, edge_attr, y, pos, time (optional): As of PyG's ``Data``: of
            atoms ``[N, C]``, bonds ``[2, E]``, int64, and ``[E, D]``; labels; positions
            ``[N, 3]`` in ångström; times. (default: ``None``)
        atom_to_token (Tensor, optional): The token of every atom ``[N]``, int64 with
            values in ``[0, num_tokens)``, in any order. (default: ``None``)
        num_tokens (int, optional): The tokens ``T``, empty ones included; of a batch's
            dictionary, a tensor for its graphs. (default: ``atom_to_token.max() + 1``)
        **kwargs: Further attributes.

    Raises:
        ValueError: If ``atom_to_token`` is no integer vector in ``[0, num_tokens)``.
    """

    # What a reader assumed of a file; beside the graph, so that any two batch.
    reading_notes = ""

    def __init__(
        self, x: Optional[Tensor] = None, edge_index: Optional[Tensor] = None,
        edge_attr: Optional[Tensor] = None, y: Any = None, pos: Optional[Tensor] = None,
        time: Optional[Tensor] = None, *, atom_to_token: Optional[Tensor] = None,
        num_tokens: Union[int, Tensor, None] = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.__dict__["_store"] = storage.AtomTokenStorage(_parent=self)
        named = dict(x=x, edge_index=edge_index, edge_attr=edge_attr, y=y, pos=pos)
        for key, value in {**named, "time": time, **kwargs}.items():
            setattr(self, key, value)
        # Of each graph, where this was the dictionary of a batch.
        many = isinstance(num_tokens, Tensor) and num_tokens.dim() > 0
        total: Any = storage.count_tokens(num_tokens) if many else num_tokens
        self.num_tokens = num_tokens
        if atom_to_token is not None:
            index = storage.to_ids("atom_to_token", atom_to_token)
            total = check_token_index(index, total, kwargs.get("batch"))
            self.num_tokens = num_tokens if many else total
            self.atom_to_token = index

    @classmethod
    def from_data(cls, data: Data) -> "AtomTokenData":
        """One graph from plain ``Data``; serves as ``to_on_disk_dataset().transform``.

        Raises:
            ValueError: If it is a batch or of a class of its own, or as above.
        """
        if isinstance(data, cls):
            return data
        kind, mend = type(data).__name__, "pass one Data, of a batch each of "
        mend += "batch.to_data_list(). What batches in its own way needs class "
        mend += f"Both({kind}, AtomTokenData), by Both.from_dict(data.to_dict())."
        checks.check(type(data) is Data, f"'data' is of type {kind}: {mend}")
        return cls.from_dict(data.to_dict())

    @property
    def total_num_tokens(self) -> int:
        """Tokens of this graph, or of all graphs where this is a batch."""
        mend = "set it with 'atom_to_token', so that graphs can be batched."
        checks.check_has(self, mend, "num_tokens")
        return storage.count_tokens(self.num_tokens)

    @property
    def token_batch(self) -> Tensor:
        """The graph of every token ``[T]``, int64; zeros where this is no batch."""
        stored = self._store.get("token_batch")
        return storage.graph_of_tokens(self) if stored is None else stored

    def token_layout(self) -> TokenLayout:
        """The layout of this graph's or batch's tokens, for any layer that takes one.

        A batch from a :class:`~pyg_atomenc.data.AtomTokenLoader` carries it; else every
        call builds it, best before a GPU: ``layout = batch.token_layout().to(device)``.
        """
        if (kept := self._store.kept_layout()) is not None:
            return kept
        self._check_has_tokens()
        total, batch = self.total_num_tokens, self._store.get("batch")
        if batch is None:
            # One graph, so that no further one hides behind ids that start again.
            batch = torch.zeros_like(self.atom_to_token)
        return TokenLayout.from_index(self.atom_to_token, total, batch=batch)

    def validate(self, raise_on_error: bool = True) -> bool:
        """Whether bonds, tokens and their rows hold; else a ValueError or ``False``."""
        try:
            super().validate(raise_on_error=True)
            self._validate_tokens()
        except ValueError:
            if raise_on_error:
                raise
            return False
        return True

    subgraph = keep_atoms
    drop_empty_tokens = drop_empty_tokens

    def _check_has_tokens(self) -> None:
        mend = "set it to the token of every atom, for example torch.arange(num_atoms)."
        checks.check_has(self, mend, "atom_to_token")

    def _check_tokens(self) -> None:
        """Check the tokens of atoms, of graphs, and the rows of ``token_*``."""
        self._check_has_tokens()
        total, batch = self.total_num_tokens, self._store.get("batch")
        check_token_index(self.atom_to_token, total, batch=batch)
        _check_rows_of(self, self._store.token_rows(), total, "tokens")
        many = isinstance(self.num_tokens, Tensor) and self.num_tokens.numel() > 1
        if batch is None or not (many or isinstance(self, Batch)):
            return
        owners = storage.graph_of_tokens(self), self.token_batch
        for name, owner in zip(("num_tokens", "token_batch"), owners, strict=True):
            if (torn := (owner[self.atom_to_token] != batch).nonzero()).numel():
                mend = "graph than 'batch' the atom: set it anew, for every graph."
                what = f"the token of atom {int(torn[0])} into another"
                raise AtomEncodingError(f"'{name}' puts {what} {mend}")

    def _validate_tokens(self) -> None:
        keys = self.keys()
        if not any(k == "atom_to_token" or storage.is_token_attr(k) for k in keys):
            return
        self._check_tokens()
        count: Any = self.num_nodes
        names = "atom_to_token z pos x formal_charge atom_name res_name chain_id"
        _check_rows_of(self, [*names.split(), "ins_code"], count, "atoms")
        mend, total = "make it anew from this graph.", self.total_num_tokens
        for key, attr, ends in (
            ("token_edge_index", "token_edge_attr", (total, "tokens")),
            ("radius_edge_index", "radius_distance", (count, "atoms")),
        ):
            if key in self:
                edges = checks.check_edges(key, self[key], *ends)
                _check_rows_of(self, [attr], edges.size(1), f"edges in '{key}'", mend)
        if "pair_attr" in self:
            pairs: Any = self.token_layout().num_pairs, "pairs of atoms in tokens"
            _check_rows_of(self, ["pair_attr"], *pairs, mend)

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key in ("atom_to_token", "token_edge_index"):
            return self.total_num_tokens
        if storage.is_token_attr(key):
            return int(key == "token_batch")
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(value, Names):
            # Loaders of neighbours ask, before they select, which lists do not know.
            mend = f"delete it, and read names as data.{key}[batch.n_id]."
            what = "a list, and loaders of neighbours select from tensors alone"
            raise AtomEncodingError(f"'{key}' is {what}: {mend}")
        if storage.is_token_attr(key):
            return -1 if key == "token_edge_index" else 0
        return super().__cat_dim__(key, value, *args, **kwargs)


# As PyG does with its own, so that what `InMemoryDataset.save` wrote loads as weights.
torch.serialization.add_safe_globals([AtomTokenData])


def check_graph(data: Any) -> tuple[Tensor, Optional[Tensor]]:
    """The bonds of a graph that a transform can work with, else a ValueError."""
    check_graph_type(data)._check_has_tokens()
    names = ("z", "pos", "formal_charge", "num_hydrogens")
    _check_rows_of(data, names, data.atom_to_token.numel(), "atoms")
    return read_bonds(data)


def check_pos(data: Any, why: str, name: str = "pos") -> Tensor:
    """The positions ``[N, 3]`` of a graph; a ValueError, with ``why``, without."""
    checks.check_has(check_graph_type(data), why, name)
    checks.check_shape(name, data[name], "N", 3, hint="positions in ångström")
    pos = checks.check_floating(name, data[name])
    if pos.numel() and not bool(pos.isfinite().all(1).any()):
        raise AtomEncodingError(f"'{name}' holds no known position: {why}")
    return pos


def check_single(data: Any, kind: type[Any] = AtomTokenData) -> None:
    """Raise a ValueError unless this is one graph of a kind, and no batch."""
    fits = isinstance(data, kind) and not isinstance(data, Batch)
    mend = f"pass one {kind.__name__}; of a batch batch[i]."
    checks.check(fits, f"'data' is {checks.found(data)}: {mend}")


def check_graph_type(data: Any, name: str = "data") -> AtomTokenData:
    """The data, if it is an ``AtomTokenData``."""
    mend = "pass an AtomTokenData, as readers give, or AtomTokenData.from_data(data)."
    return checks.check_type(name, data, AtomTokenData, mend)


def _check_rows_of(
    data: AtomTokenData, names: Iterable[str], count: int, what: str, *mend: str
) -> None:
    for name in names:
        value = data.get(name)
        # A batch has a list for each graph.
        lists = [value] if isinstance(value, Names) else value
        if isinstance(lists, list) and all(isinstance(v, Names) for v in lists):
            value = torch.empty(sum(map(len, lists)))
        if isinstance(value, Tensor):
            checks.check_rows(name, value, count, what, *mend)
