"""Which attributes belong to atoms, bonds or tokens, and what follows the tokens."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, Optional

import torch
from torch import Tensor
from torch_geometric.data import Batch
from torch_geometric.data.storage import GlobalStorage, recursive_apply

from pyg_atomenc.attention import TokenLayout, check_token_index
from pyg_atomenc.checks import check, check_tensor, check_type
from pyg_atomenc.data.names import Names, named
from pyg_atomenc.errors import AtomEncodingError

_LAYOUT_KEYS = ("atom_to_token", "num_tokens")
# What batching shifts; in a narrow type it would overflow.
_ID_KEYS = ("atom_to_token", "token_batch", "token_edge_index", "radius_edge_index")


def is_token_attr(key: str) -> bool:
    """Whether an attribute's name says that it belongs to the tokens."""
    return key == "num_tokens" or key.startswith("token_")


def has_token_rows(key: str) -> bool:
    """Whether an attribute's name says that it has one row for each token."""
    # The `…_ptr` of graphs is what `follow_batch` adds.
    other = key.startswith("token_edge_") or key.endswith("_ptr")
    return key.startswith("token_") and not other


def has_pair_rows(key: str) -> bool:
    """Whether the rows are pairs of atoms in tokens, or edges by distance."""
    return key.startswith(("pair_", "radius_"))


def has_own_rows(key: str) -> bool:
    """Whether an attribute's name says that its rows are neither atoms nor bonds."""
    return is_token_attr(key) or has_pair_rows(key)


def count_tokens(num_tokens: Any) -> int:
    """The tokens of a graph, or of all graphs of a batch."""
    return int(num_tokens.sum() if isinstance(num_tokens, Tensor) else num_tokens)


def graph_of_tokens(data: Any) -> Tensor:
    """The graph of every token ``[T]``, int64, from ``num_tokens`` of each."""
    index, total = data.get("atom_to_token"), data.total_num_tokens
    device = index.device if isinstance(index, Tensor) else None
    sizes = torch.as_tensor(data.num_tokens, device=device).flatten().long()
    return torch.repeat_interleave(sizes, output_size=total)


def to_ids(key: str, value: Any) -> Tensor:
    """The value as int64, if it is a tensor of integers of any type."""
    dtype = check_tensor(key, value, "pass a tensor of integers.").dtype
    if dtype == torch.bool or dtype.is_floating_point or dtype.is_complex:
        mend = f"pass integers; convert with {key}.long()."
        raise AtomEncodingError(f"'{key}' is of type {dtype}: {mend}")
    return value.to(torch.int64)


class AtomTokenStorage(GlobalStorage):
    """Tells token attributes from atom and bond attributes by name, not by length.

    Whatever sets ``atom_to_token``, a layout of the old one goes, features of pairs and
    edges by distance refuse, and atoms that padding adds get tokens of their own.
    """

    @property
    def can_infer_num_nodes(self) -> bool:
        """Whether an attribute says how many atoms there are."""
        return "atom_to_token" in self or super().can_infer_num_nodes

    @property
    def num_nodes(self) -> Optional[int]:
        """The number of atoms."""
        # PyG knows these names; without them it would guess from the edges.
        known = any(key in self for key in ("num_nodes", "x", "pos", "batch"))
        own = not known and "atom_to_token" in self
        return self["atom_to_token"].size(0) if own else super().num_nodes

    def is_node_attr(self, key: str) -> bool:
        """Whether an attribute has one row for each atom."""
        return not has_own_rows(key) and super().is_node_attr(key)

    def is_edge_attr(self, key: str) -> bool:
        """Whether an attribute has one row for each bond."""
        return not has_own_rows(key) and super().is_edge_attr(key)

    @property
    def num_edges(self) -> int:
        """The number of bonds, each direction counted."""
        # Without bonds, PyG would count any other edges.
        other = any("edge" in key and has_own_rows(key) for key in self)
        none = other and "edge_index" not in self and "adj_t" not in self
        return 0 if none else super().num_edges

    def token_rows(self) -> dict[str, Any]:
        """The tensors and lists with one row for each token."""
        rows = {k: v for k, v in self.items() if has_token_rows(k)}
        # What `follow_batch` adds for names has one row for each graph.
        of = {f"{k}_batch" for k, v in rows.items() if not isinstance(v, Tensor)}
        kinds = (Tensor, list)
        return {k: v for k, v in rows.items() if isinstance(v, kinds) and k not in of}

    def kept_layout(self) -> Optional[TokenLayout]:
        """The layout that was kept, if it is still that of ``atom_to_token``."""
        layout, stamp = self.__dict__.get("_layout", (None, None))
        if layout is None:
            return None
        index, total = self["atom_to_token"], self["num_tokens"]
        if torch.compiler.is_compiling():
            # A trace cannot branch on values, but refuse them when it runs.
            equal = (index == layout.atom_to_token).all()
            torch._assert_async(equal, "'atom_to_token' was edited in place: set it.")
            return layout
        same = stamp == [_stamp(index), _stamp(total)]
        if type(index) is Tensor and index.is_cpu:
            # In-place edits show in the values; elsewhere, to read them would wait.
            same = index.equal(layout.atom_to_token)
            same = same and count_tokens(total) == layout.num_tokens
        return layout if same else None

    def keep_layout(self, layout: TokenLayout) -> None:
        """Keep a layout until ``atom_to_token`` or ``num_tokens`` changes."""
        # Never an attribute: PyG would slice, batch or print it.
        self.__dict__["_layout"] = layout, [_stamp(self[key]) for key in _LAYOUT_KEYS]

    def __setitem__(self, key: str, value: Any) -> None:
        if value is None:
            return self.__delitem__(key)
        value = to_ids(key, value) if key in _ID_KEYS else value
        if has_token_rows(key) and (
            isinstance(value, (int, float)) or getattr(value, "shape", None) == ()
        ):
            mend = "has one row for each token: give it as many, or another name."
            raise AtomEncodingError(f"'{key}' is {value!r}, but 'token_…' {mend}")
        if key in _LAYOUT_KEYS:
            self.__dict__.pop("_layout", None)
        if key == "atom_to_token":
            old = self.get(key, value)
            value = value if old is value else self._follow(old, value)
            # Of a batch, each graph has its own.
            if "num_tokens" not in self and not isinstance(self._parent(), Batch):
                self["num_tokens"] = check_token_index(value)
        super().__setitem__(key, named(value))

    def __delitem__(self, key: str) -> None:
        if key in _LAYOUT_KEYS:
            self.__dict__.pop("_layout", None)
        if key == "atom_to_token":
            for pair in [k for k in self if k.startswith("pair_")]:
                super().__delitem__(pair)
        super().__delitem__(key)

    def __getstate__(self) -> dict[str, Any]:
        state, index = super().__getstate__(), self.get("atom_to_token")
        # On the CPU the values tell whose layout it is, also in another process.
        if index is None or not index.is_cpu:
            state.pop("_layout", None)
        return state

    def apply(self, func: Callable[[Any], Any], *args: str) -> "AtomTokenStorage":
        """Apply a function to attributes; a layout moves along with its tokens."""
        layout, old = self.kept_layout(), self.get("atom_to_token")
        self.__dict__.pop("_layout", None)
        for key, value in self.items(*args):
            # Tensors of inference mode have no version, by which edits are noticed.
            own = layout is not None and key in _LAYOUT_KEYS
            with torch.inference_mode(False) if own else nullcontext():
                value = recursive_apply(value, func)
            value = to_ids(key, value) if key in _ID_KEYS else value
            super().__setitem__(key, named(value))
        index = self.get("atom_to_token")
        # A layout knows how to move, and no other method of a tensor.
        with suppress(Exception):
            moved: Any = layout if index is old or layout is None else func(layout)
            if (moved is layout) == (index is old) and moved.device == index.device:
                self.keep_layout(check_type("layout", moved, TokenLayout, ""))
        return self

    def apply_(self, func: Callable[[Any], Any], *args: str) -> "AtomTokenStorage":
        """Apply an in-place function to attributes, and to the layout what it knows."""
        super().apply_(func, *args)
        with suppress(Exception):
            func(self.__dict__["_layout"][0])
        return self

    def concat(self, other: "AtomTokenStorage") -> "AtomTokenStorage":
        """Concatenate attributes as PyG does, where there are no tokens."""
        mend = "use Batch.from_data_list."
        check("atom_to_token" not in self, f"'concat' shifts no ids: {mend}")
        return super().concat(other)

    def _follow(self, old: Tensor, index: Tensor) -> Tensor:
        """The assignment to set in place of the old one, after what hangs on it."""
        count, added, stale = old.numel(), index.numel() - old.numel(), list[str]()
        lists = [key for key, value in self.items() if isinstance(value, Names)]
        names = [k for k in lists if len(self[k]) == count and not has_own_rows(k)]
        if added > 0 and old.device == index.device and index[:count].equal(old):
            for key in names:
                super().__setitem__(key, Names(self[key] + [""] * added))
            if not index[count:].any():
                return self._pad(old, added)
        elif added:
            # What selects names, too, has selected from those that stand before.
            before = list(self)[: list(self).index("atom_to_token")]
            stale = [key for key in names if key in before]
        for key in [key for key in self if has_pair_rows(key)] + stale:
            mend = "was made from the old: select by data.subgraph(), or delete it."
            raise AtomEncodingError(f"'atom_to_token' is set anew, but '{key}' {mend}")
        return index

    def _pad(self, old: Tensor, added: int) -> Tensor:
        """The assignment with further atoms, each in a token of its own."""
        how = f"grows by {added} atoms filled with zeros, as T.VirtualNode and T.Pad do"
        mend = "add atoms to graphs before they are batched."
        check("batch" not in self, f"'atom_to_token' {how}: {mend}")
        total, rows = count_tokens(self["num_tokens"]), self.token_rows()
        # The pairs of a layout are sorted by token, one of each new token.
        rows |= {key: value for key, value in self.items() if key.startswith("pair_")}
        for key, value in rows.items():
            if isinstance(value, Tensor):
                value = torch.cat([value, value.new_zeros(added, *value.shape[1:])])
            else:
                value = named(value + [""] * added)
            super().__setitem__(key, value)
        super().__setitem__("num_tokens", self["num_tokens"] + added)
        mend = "If they belong to token 0, delete 'atom_to_token' before you set it."
        text = f"for which {', '.join(['num_tokens', *rows])} grow. {mend}"
        text = f"'atom_to_token' {how}: each gets a token of its own, {text}"
        warnings.warn(text, stacklevel=5)
        return torch.cat([old, torch.arange(total, total + added, device=old.device)])


def _stamp(value: Any) -> tuple[int, int]:
    """What changes with every other tensor and with every edit of this one."""
    known = isinstance(value, Tensor) and not value.is_inference()
    return id(value), value._version if known else 0
