"""`AtomTokenDataModule`: data sets, loaders and samplers for Lightning."""

import importlib.util
from collections.abc import Iterator
from typing import Any, Optional, Union

import torch
from torch_geometric.data import Batch

from pyg_atomenc.data.atom_token_loader import AtomTokenLoader
from pyg_atomenc.data.token_budget_sampler import TokenBudgetSampler
from pyg_atomenc.errors import AtomEncodingError, require_package

_NAMES = ("lightning.pytorch", "pytorch_lightning")
_found = [name for name in _NAMES if importlib.util.find_spec(name.split(".")[0])]
# Each has a trainer that takes only data modules of its own, and often both are there.
_BASES = [
    require_package(name, "AtomTokenDataModule").LightningDataModule
    for name in _found or _NAMES[:1]
]


class AtomTokenDataModule(*_BASES):  # type: ignore[misc]
    r"""Data sets for a Lightning ``Trainer``, as PyG's ``LightningDataset`` holds them.

    Batches come from :class:`~pyg_atomenc.data.AtomTokenLoader`, and carry their token
    layout. With a budget, :class:`~pyg_atomenc.data.TokenBudgetSampler` fills them,
    each graph once an epoch, shuffled anew in each epoch of training, and shares them
    among the ranks of a distributed strategy itself, whatever
    ``Trainer(use_distributed_sampler=...)`` is. As epochs differ in their number of
    batches, the trainer is made to ask for it in every epoch
    (``reload_dataloaders_every_n_epochs=1``); workers live on. Without a budget,
    batches have ``batch_size`` graphs, and Lightning shares them as any others.

    Args:
        train_dataset (Dataset or sequence, optional): Gives
            :class:`~pyg_atomenc.data.AtomTokenData`. (default: ``None``)
        val_dataset (Dataset or sequence, optional): Likewise. (default: ``None``)
        test_dataset (Dataset or sequence, optional): Likewise. (default: ``None``)
        pred_dataset (Dataset or sequence, optional): Likewise. (default: ``None``)
        max_pairs (int, optional): The most :math:`\sum_t n_t^2` of a batch, over tokens
            of :math:`n_t` atoms. (default: no bound)
        max_atoms (int, optional): The most atoms of a batch. (default: no bound)
        seed (int): For shuffling by the sampler. (default: ``0``)
        oversized (str): As for the sampler. (default: ``"alone"``)
        **kwargs: As for :class:`torch_geometric.loader.DataLoader`: ``num_workers``,
            ``follow_batch`` and so on. ``batch_size`` is 1, ``pin_memory`` set where
            there is CUDA and ``persistent_workers`` where there are workers, unless
            given; ``drop_last`` is for training alone.

    Raises:
        ValueError: If ``shuffle`` or a sampler is passed, or ``batch_size`` with a
            budget; when batches are made, as the sampler and the loader do.
        ImportError: Where this is imported without Lightning.
    """

    def __init__(
        self,
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        pred_dataset: Any = None,
        *,
        max_pairs: Optional[int] = None,
        max_atoms: Optional[int] = None,
        seed: int = 0,
        oversized: str = "alone",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        budget = max_pairs is not None or max_atoms is not None
        for name in ("shuffle", "sampler", "batch_sampler", "batch_size"):
            if name in kwargs and (budget or name != "batch_size"):
                raise AtomEncodingError(
                    f"'{name}' is {kwargs[name]!r}: leave it out; training shuffles, "
                    f"and 'max_pairs' or 'max_atoms' stand in for a batch size."
                )
        if not budget:
            kwargs.setdefault("batch_size", 1)
        kwargs.setdefault("pin_memory", torch.cuda.is_available())
        kwargs.setdefault("persistent_workers", kwargs.get("num_workers", 0) > 0)
        self.train_dataset, self.val_dataset = train_dataset, val_dataset
        self.test_dataset, self.pred_dataset = test_dataset, pred_dataset
        self.drop_last = kwargs.pop("drop_last", False)
        budgets: dict[str, Any] = dict(max_pairs=max_pairs, max_atoms=max_atoms)
        self.budgets = budgets if budget else {}
        self.seed, self.oversized, self.kwargs = seed, oversized, kwargs
        self._loaders: dict[str, tuple[Any, Any]] = {}
        # Lightning runs a stage if there is such a method.
        for name, dataset in self._datasets().items():
            if dataset is None:
                setattr(self, f"{name}_dataloader", None)

    def train_dataloader(self) -> "Union[AtomTokenLoader, BudgetLoader]":
        """The loader of shuffled batches."""
        loader = self._loader("train")
        if self.trainer is not None and isinstance(loader, BudgetLoader):
            loader.batch_sampler.set_epoch(self.trainer.current_epoch)
            self.trainer.reload_dataloaders_every_n_epochs = 1
        return loader

    def val_dataloader(self) -> "Union[AtomTokenLoader, BudgetLoader]":
        """The loader for validation, in the order of the data set."""
        return self._loader("val")

    def test_dataloader(self) -> "Union[AtomTokenLoader, BudgetLoader]":
        """The loader for testing, in the order of the data set."""
        return self._loader("test")

    def predict_dataloader(self) -> "Union[AtomTokenLoader, BudgetLoader]":
        """The loader for prediction, in the order of the data set."""
        return self._loader("predict")

    def _datasets(self) -> dict[str, Any]:
        return dict(
            train=self.train_dataset,
            val=self.val_dataset,
            test=self.test_dataset,
            predict=self.pred_dataset,
        )

    def _loader(self, stage: str) -> Any:
        dataset, train = self._datasets()[stage], stage == "train"
        drop_last = train and self.drop_last
        if not self.budgets:
            options = dict(shuffle=train, drop_last=drop_last, **self.kwargs)
            return AtomTokenLoader(dataset, **options)
        ranks = self.trainer and self.trainer.distributed_sampler_kwargs or {}
        # The same one in every epoch: the sizes are known, and workers live on.
        for_whom, loader = self._loaders.get(stage, (None, None))
        if for_whom != (id(dataset), ranks):
            sampler = TokenBudgetSampler(
                dataset,
                **self.budgets,
                **ranks,
                shuffle=train,
                seed=self.seed,
                drop_last=drop_last,
                oversized=self.oversized,
            )
            loader = BudgetLoader(dataset, sampler, self.kwargs)
            self._loaders[stage] = ((id(dataset), ranks), loader)
        return loader

    def __repr__(self) -> str:
        known = {f"{k}_dataset": v for k, v in self._datasets().items()}
        known = {k: v for k, v in known.items() if v is not None}
        known = {k: f"{type(v).__name__}({len(v)})" for k, v in known.items()}
        known |= {**self.budgets, **self.kwargs}
        text = ", ".join(f"{name}={value}" for name, value in known.items())
        return f"{type(self).__name__}({text})"

    # Lightning's own would load data.
    __str__ = __repr__


class BudgetLoader:
    """Batches of a ``TokenBudgetSampler``.

    It is no ``DataLoader``, so that Lightning does not put a sampler of its own in the
    place of this one.

    Args:
        dataset (Dataset or sequence): Gives :class:`~pyg_atomenc.data.AtomTokenData`.
        sampler (TokenBudgetSampler): Its batches.
        options (dict): As for :class:`~pyg_atomenc.data.AtomTokenLoader`.
    """

    def __init__(
        self, dataset: Any, sampler: TokenBudgetSampler, options: dict[str, Any]
    ) -> None:
        self.batch_sampler = sampler
        self.loader = AtomTokenLoader(dataset, batch_sampler=sampler, **options)

    def __iter__(self) -> Iterator[Batch]:
        # Nothing starts before the first batch: Lightning makes iterators to spare.
        yield from self.loader

    def __len__(self) -> int:
        return len(self.loader)
