"""`AtomTokenDataModule` in a Lightning trainer."""

import importlib
import json
import os
import random
import subprocess
import sys

import pytest
import torch

from pyg_atomenc import AtomAttentionEncoder, AtomTokenData
from pyg_atomenc.datasets import StructureDataset

pytest.importorskip("lightning", reason="Lightning is not installed")

from pyg_atomenc.data.lightning import AtomTokenDataModule, BudgetLoader  # noqa: E402

QUIET = dict(accelerator="cpu", logger=False, enable_checkpointing=False)
QUIET |= dict(enable_progress_bar=False, enable_model_summary=False)
pytestmark = pytest.mark.filterwarnings("ignore")


def graphs(count=40):
    draw, found = random.Random(3), []
    for number in range(count):
        size = draw.randint(2, 30)
        found.append(
            AtomTokenData(
                x=torch.randn(size, 4),
                edge_index=torch.zeros(2, 0).long(),
                atom_to_token=torch.arange(size) // 3,
                y=torch.tensor([number]),
            )
        )
    return found


def model_of(package):
    """A module of this package that notes the graphs of every batch."""

    class Model(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.encoder = AtomAttentionEncoder(4, 4, 1)
            self.seen, self.epochs, self.lengths, self.other = [], [], [], []

        def training_step(self, batch, _):
            layout = batch._store.kept_layout()
            assert layout.num_atoms == batch.num_nodes
            self.seen.append(batch.y.tolist())
            return self.encoder(batch.x, batch.token_layout()).square().mean()

        def on_train_epoch_end(self):
            self.lengths.append(self.trainer.num_training_batches)
            self.epochs.append(self.seen)
            self.seen = []

        def validation_step(self, batch, _):
            self.other.append(batch.y.tolist())

        test_step = validation_step

        def predict_step(self, batch, _):
            return batch.y

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-3)

    return Model()


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.parametrize(
    "options",
    [
        dict(max_atoms=45),
        dict(max_pairs=200, max_atoms=80),
        dict(batch_size=7),
        dict(max_atoms=45, num_workers=1),
    ],
)
def test_each_graph_once_an_epoch_in_another_order(name, options):
    package = importlib.import_module(name)
    data = graphs()
    module = AtomTokenDataModule(data, data[:9], data[9:20], data[20:26], **options)
    model = model_of(package)
    trainer = package.Trainer(max_epochs=5, num_sanity_val_steps=0, **QUIET)
    trainer.fit(model, datamodule=module)
    assert len(model.epochs) == 5
    for batches in model.epochs:
        assert sorted(sum(batches, [])) == list(range(40))
    assert len({str(batches) for batches in model.epochs}) == 5
    assert [len(batches) for batches in model.epochs] == model.lengths
    if "max_atoms" in options:
        atoms = [data[i].num_nodes for i in range(40)]
        for batch in sum(model.epochs, []):
            assert sum(atoms[i] for i in batch) <= options["max_atoms"]
        # Their number changes, which a trainer does not ask for by itself.
        assert "max_pairs" in options or len(set(model.lengths)) > 1
    assert sum(model.other, []) == 5 * list(range(9))
    model.other = []
    trainer.test(model, datamodule=module, verbose=False)
    assert sum(model.other, []) == list(range(9, 20))
    found = trainer.predict(model, datamodule=module)
    assert torch.cat(found).tolist() == list(range(20, 26))


def test_what_a_trainer_may_ask_of_it():
    import lightning.pytorch as package

    data = graphs(12)
    for options in (
        dict(fast_dev_run=True),
        dict(max_epochs=2, overfit_batches=1),
        dict(max_epochs=2, limit_train_batches=2),
        dict(max_epochs=2, val_check_interval=0.5),
        dict(max_epochs=2, accumulate_grad_batches=3),
    ):
        module = AtomTokenDataModule(data, data[:4], max_atoms=60)
        model = model_of(package)
        trainer = package.Trainer(**QUIET, **options)
        trainer.fit(model, datamodule=module)
        assert trainer.global_step > 0 and model.other, options
        if "overfit_batches" not in options:
            assert trainer.estimated_stepping_batches >= trainer.global_step


def test_training_goes_on_in_the_epoch_of_a_checkpoint(tmp_path):
    import lightning.pytorch as package

    once = model_of(package)
    package.Trainer(max_epochs=3, **QUIET).fit(
        once, datamodule=AtomTokenDataModule(graphs(), max_atoms=45)
    )
    trainer = package.Trainer(max_epochs=2, **QUIET)
    trainer.fit(
        model_of(package), datamodule=AtomTokenDataModule(graphs(), max_atoms=45)
    )
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    resumed = model_of(package)
    package.Trainer(max_epochs=3, **QUIET).fit(
        resumed,
        datamodule=AtomTokenDataModule(graphs(), max_atoms=45),
        ckpt_path=tmp_path / "a.ckpt",
    )
    assert resumed.epochs == once.epochs[2:]


def test_workers_live_on_between_epochs():
    import lightning.pytorch as package

    data = [g for g in graphs(8)]
    module = AtomTokenDataModule(Marked(data), max_atoms=60, num_workers=1)
    pids = set()
    model = model_of(package)
    model.on_train_batch_end = lambda out, batch, _: pids.update(batch.pid.tolist())
    package.Trainer(max_epochs=3, **QUIET).fit(model, datamodule=module)
    assert len(pids) == 1 and os.getpid() not in pids


class Marked(torch.utils.data.Dataset):
    """Graphs that know the process that gave them."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        data = self.data[index].clone()
        data.pid = os.getpid()
        return data


def test_without_a_trainer():
    data = graphs(6)
    module = AtomTokenDataModule(data, max_pairs=60, follow_batch=["x"])
    loader = module.train_dataloader()
    assert isinstance(loader, BudgetLoader) and len(list(loader)) == len(loader)
    (first, *_) = loader
    assert "x_batch" in first and first.token_layout() is first.token_layout()
    moved = module.transfer_batch_to_device(first, torch.device("meta"), 0)
    assert moved.token_layout().device.type == "meta"
    assert module.val_dataloader is None and module.predict_dataloader is None
    assert "'max_pairs': 60" in str(module)


def test_a_data_set_of_structures(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    (tmp_path / "a.csv").write_text("smiles\nCCO\nc1ccccc1CCN\nCC(=O)O\n")
    dataset = StructureDataset(tmp_path, tmp_path / "a.csv", progress=False)
    (batch,) = AtomTokenDataModule(dataset, max_atoms=50).train_dataloader()
    assert sorted(batch.smiles) == sorted(data.smiles for data in dataset)


def test_bad_arguments():
    for name in ("shuffle", "sampler", "batch_sampler"):
        with pytest.raises(ValueError, match=f"'{name}' is True: leave it out"):
            AtomTokenDataModule(graphs(2), **{name: True})
    with pytest.raises(ValueError, match="'batch_size' is 4: leave it out"):
        AtomTokenDataModule(graphs(2), max_pairs=9, batch_size=4)
    with pytest.raises(ValueError, match="'max_pairs' is 0"):
        AtomTokenDataModule(graphs(2), max_pairs=0).train_dataloader()


def test_lightning_is_imported_where_it_is_needed():
    code = (
        "import sys, pyg_atomenc, pyg_atomenc.data, pyg_atomenc.nn, pyg_atomenc.io\n"
        "print([n for n in sys.modules if 'lightning' in n.split('.')[0]])\n"
        "sys.modules.update({'lightning': None, 'pytorch_lightning': None})\n"
        "import pyg_atomenc.data.lightning"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert "needs the package 'lightning' (extra 'lightning')" in done.stderr


def run_on_two_ranks(folder):
    """Train, test and predict on two ranks, and write down what each of them saw."""
    for name, options in RANKS.items():
        run_on_a_rank(folder, name, options)


RANKS = {"budget": dict(max_atoms=45), "size": dict(batch_size=4)}


def run_on_a_rank(folder, name, options):
    import lightning.pytorch as package

    data = graphs()
    module = AtomTokenDataModule(data, data[:9], data[9:20], data[20:26], **options)
    model = model_of(package)
    trainer = package.Trainer(max_epochs=3, devices=2, strategy="ddp", **QUIET)
    trainer.fit(model, datamodule=module)
    weights = [p.flatten().tolist() for p in model.parameters()]
    model.other = []
    trainer.test(model, datamodule=module, verbose=False)
    found = [y.tolist() for y in trainer.predict(model, datamodule=module)]
    seen = dict(epochs=model.epochs, test=model.other, predict=found, weights=weights)
    with open(os.path.join(folder, f"{name}{trainer.global_rank}.json"), "w") as file:
        json.dump(seen, file)


@pytest.mark.slow
def test_two_ranks_share_the_batches(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("torch.distributed is not available")
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from data.test_lightning import run_on_two_ranks\n"
        f"run_on_two_ranks({str(tmp_path)!r})\n"
    )
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    for name in RANKS:
        files = [tmp_path / f"{name}{rank}.json" for rank in (0, 1)]
        check_two_ranks(*(json.loads(file.read_text()) for file in files))


def check_two_ranks(one, other):
    for a, b in zip(one["epochs"], other["epochs"], strict=True):
        assert len(a) == len(b)
        both = sum(a, []) + sum(b, [])
        assert set(both) == set(range(40))
        # A batch, or a graph of the last batch, may come twice to make ranks even.
        assert len(both) - 40 <= max(map(len, a + b))
    assert one["epochs"][0] != one["epochs"][1]
    for key, wanted in (("test", range(9, 20)), ("predict", range(20, 26))):
        assert set(sum(one[key], []) + sum(other[key], [])) == set(wanted)
    assert one["weights"] == other["weights"]
