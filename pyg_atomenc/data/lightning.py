"""`AtomTokenDataModule`: data sets, loaders and samplers for Lightning."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch_geometric.data import Batch
from torch_geometric.data.lightning.datamodule import LightningDataset

from pyg_atomenc.data.atom_token_loader import AtomTokenLoader
from pyg_atomenc.data.token_budget_sampler import TokenBudgetSampler
from pyg_atomenc.errors import AtomEncodingError, require_package

_NAMES = ("lightning.pytorch", "pytorch_lightning")
_found = [name for name in _NAMES if importlib.util.find_spec(name.split(".")[0])]
_modules = [require_package(n, "AtomTokenDataModule") for n in _found or _NAMES[:1]]
# Each has a trainer that takes only data modules of its own, and often both are there.
_BASES = [module.LightningDataModule for module in _modules]


class AtomTokenDataModule(LightningDataset, *_BASES):  # type: ignore[misc]
    r"""PyG's ``LightningDataset`` with batches of tokens, for a Lightning ``Trainer``.

    Batches come from :class:`~pyg_atomenc.data.AtomTokenLoader`, with a layout; only in
    training they are shuffled. With a budget,
    :class:`~pyg_atomenc.data.TokenBudgetSampler` fills and shares them among ranks, not
    Lightning; as epochs differ in length, ``reload_dataloaders_every_n_epochs`` is 1.

    Args:
        train_dataset, val_dataset, test_dataset, pred_dataset (Dataset or sequence):
            Gives :class:`~pyg_atomenc.data.AtomTokenData`. (default: ``None``)
        max_pairs, max_atoms, seed: As for the sampler.
        **kwargs: As for :class:`torch_geometric.loader.DataLoader`. By default
            ``batch_size`` is 1, ``pin_memory`` set where there is CUDA and
            ``persistent_workers`` with workers; ``drop_last`` is for training alone.

    Raises:
        ValueError: If ``shuffle`` or a sampler is passed, or ``batch_size`` with a
            budget; when batches are made, as the sampler and the loader do.
        ImportError: Where this is imported without Lightning.
    """

    def __init__(
        self, train_dataset: Any = None, val_dataset: Any = None,
        test_dataset: Any = None, pred_dataset: Any = None, *,
        max_pairs: Optional[int] = None, max_atoms: Optional[int] = None,
        seed: int = 0, **kwargs: Any,
    ) -> None:  # fmt: skip
        bounded = max_pairs is not None or max_atoms is not None
        refused = {"shuffle", "sampler", "batch_sampler", "batch_size"} & set(kwargs)
        for name in refused if bounded else refused - {"batch_size"}:
            mend = "leave it out; training shuffles, a budget replaces a batch size."
            raise AtomEncodingError(f"'{name}' is {kwargs[name]!r}: {mend}")
        kwargs.setdefault("pin_memory", torch.cuda.is_available())
        self.drop_last = kwargs.pop("drop_last", False)
        sets = (train_dataset, val_dataset, test_dataset, pred_dataset)
        super().__init__(*sets, **kwargs)
        # Lightning runs a stage if there is such a method.
        if train_dataset is None:
            self.train_dataloader = None
        if pred_dataset is None:
            self.predict_dataloader = None
        self.sampling: dict[str, Any] = {}
        if bounded:
            del self.kwargs["batch_size"]
            self.sampling = dict(max_pairs=max_pairs, max_atoms=max_atoms, seed=seed)
        self._loaders: dict[Any, BudgetLoader] = {}

    def dataloader(self, dataset: Any, shuffle: bool, **kwargs: Any) -> Any:
        """The loader of a data set, shuffled for training alone."""
        options: Any = dict(shuffle=shuffle, drop_last=shuffle and self.drop_last)
        if not self.sampling:
            return AtomTokenLoader(dataset, **options, **kwargs)
        ranks = self.trainer and self.trainer.distributed_sampler_kwargs or {}
        # The same one in every epoch: the sizes are known, and workers live on.
        if (key := (id(dataset), shuffle, *ranks.values())) not in self._loaders:
            sampler = TokenBudgetSampler(dataset, **self.sampling, **ranks, **options)
            loader = AtomTokenLoader(dataset, batch_sampler=sampler, **kwargs)
            self._loaders[key] = BudgetLoader(loader)
        if shuffle and self.trainer is not None:
            sampler = self._loaders[key].loader.batch_sampler
            sampler.set_epoch(self.trainer.current_epoch)
            self.trainer.reload_dataloaders_every_n_epochs = 1
        return self._loaders[key]

    def __str__(self) -> str:
        # Lightning's own would load data.
        return f"{type(self).__name__}({self.sampling | self.kwargs})"


@dataclass
class BudgetLoader:
    """An ``AtomTokenLoader`` in which Lightning puts no sampler of its own."""

    loader: AtomTokenLoader

    def __iter__(self) -> Iterator[Batch]:
        # Nothing starts before the first batch: Lightning makes iterators to spare.
        yield from self.loader

    def __len__(self) -> int:
        return len(self.loader)
