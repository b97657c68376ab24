"""`AtomTokenLoader`: batches that carry their token layout."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from pyg_atomenc.data.atom_token_data import check_graph_type
from pyg_atomenc.errors import AtomEncodingError


class AtomTokenLoader(DataLoader):
    """PyG's ``DataLoader`` that builds the token layout where it builds the batch.

    With ``num_workers > 0`` that is in a worker. The layout moves with the batch, also
    to pinned memory; ``token_layout()`` gives it out, until ``atom_to_token`` changes.

    Args:
        dataset (Dataset or sequence): Gives :class:`~pyg_atomenc.data.AtomTokenData`.
        *args, **kwargs: As for :class:`torch_geometric.loader.DataLoader`.

    Raises:
        ValueError: When a batch is made, if it is none of ``AtomTokenData``, a token id
            is out of range, or only some of its graphs have an attribute.
    """

    collate_fn: Any

    def __init__(self, dataset: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset, *args, **kwargs)
        self.collate_fn = partial(_collate_with_layout, self.collate_fn)


def _collate_with_layout(collate: Any, graphs: Sequence[Any]) -> Batch:
    for data in graphs:
        check_graph_type(data, "dataset[i]")
    names = [{*data.keys()} - {*(collate.exclude_keys or ())} for data in graphs]
    # PyG drops what only the first graph lacks, and stops where another does.
    for number, other in enumerate(names):
        if missing := sorted(names[0] ^ other):
            lacks = 0 if missing[0] in other else number
            mend = f"set it in all, or pass exclude_keys={missing!r}."
            what = f"a batch whose graph {lacks} lacks {missing[0]!r}"
            raise AtomEncodingError(f"'dataset' gives {what}: {mend}")
    batch = collate(graphs)
    batch._store.keep_layout(batch.token_layout())
    return batch
