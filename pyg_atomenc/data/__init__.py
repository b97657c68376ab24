"""Graphs of atoms that know their tokens."""

from pyg_atomenc.data.atom_token_data import AtomTokenData
from pyg_atomenc.data.atom_token_loader import AtomTokenLoader
from pyg_atomenc.data.token_budget_sampler import (
    TokenBudgetSampler,
    dataset_sizes,
    graph_size,
)

__all__ = ["AtomTokenData", "AtomTokenLoader", "TokenBudgetSampler", "dataset_sizes",
           "graph_size"]  # fmt: skip
