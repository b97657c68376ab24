"""One run of the study: a split, a model, an error."""

import copy
import random
import time
from functools import lru_cache

import torch
from models import Model, count_parameters, matched_hidden
from molecules import Chem, load_graphs, split, token_target, with_random_tokens
from torch import nn

from pyg_atomenc.data import AtomTokenLoader
from pyg_atomenc.errors import require_package

BATCH = 64
# To put batches together is a third of the time: so many epochs have batches of their
# own, and those after them the same in another order. Large sets keep fewer in memory.
SHUFFLES, KEPT_GRAPHS = 4, 30_000
LEARNING_RATE = 3e-3
LEFT_OUT = ["smiles", "scaffold", "contribution"]


@lru_cache(maxsize=8)
def _graphs(data, tokens, cache, limit):
    return load_graphs(data, tokens, cache, limit)


def run(config, cache):
    """The errors of one configuration, a dictionary that goes on from it."""
    start = time.perf_counter()
    graphs = _graphs(config["data"], config["tokens"], cache, config["limit"])
    parts = split(graphs, config["split"], config["seed"])
    if config["tokens"] == "random":
        graphs = with_random_tokens(graphs, config["seed"])
    graphs = [_with_target(data, config["task"]) for data in graphs]
    parts = [[graphs[i] for i in part] for part in parts]
    method = config["pooling"]
    if method == "mean of training":
        found = _mean(parts)
    elif method == "random forest":
        found = _forest(parts, config["seed"])
    else:
        found = _network(parts, config)
    sizes = dict(zip(("train", "valid", "test"), map(len, parts), strict=True))
    seconds = round(time.perf_counter() - start, 2)
    return {**config, **found, "sizes": sizes, "seconds": seconds}


def _with_target(data, task):
    data = copy.copy(data)
    if task != "molecule":
        data.y = token_target(data, task)
    return data


def error(scores, y, binary):
    """The root mean square error, or for two classes 1 - ROC AUC."""
    if not binary:
        return (scores - y).square().mean().sqrt().item()
    positive, negative = scores[y == 1], scores[y == 0]
    pairs = positive.unsqueeze(1) - negative.unsqueeze(0)
    return 1 - ((pairs > 0).float() + 0.5 * (pairs == 0)).mean().item()


def _targets(graphs):
    return torch.cat([data.y for data in graphs])


def _is_binary(parts):
    return all(bool(((y == 0) | (y == 1)).all()) for y in map(_targets, parts))


def _mean(parts):
    train, valid, test = map(_targets, parts)
    binary = _is_binary(parts)
    names = {"valid_error": valid, "test_error": test}
    return {k: error(train.mean().expand_as(y), y, binary) for k, y in names.items()}


def _forest(parts, seed):
    """Counts of Morgan fragments of radius 2 → scikit-learn's forest, as it comes."""
    ensemble = require_package("sklearn.ensemble", "the random forest")
    generators = require_package("rdkit.Chem.rdFingerprintGenerator", "the forest")
    morgan = generators.GetMorganGenerator(radius=2, fpSize=2048)

    def prints(graphs):
        mols = [Chem.MolFromSmiles(data.smiles) for data in graphs]
        return [morgan.GetCountFingerprintAsNumPy(mol) for mol in mols]

    binary = _is_binary(parts)
    kind = "RandomForestClassifier" if binary else "RandomForestRegressor"
    forest = getattr(ensemble, kind)(random_state=seed, n_jobs=1)
    forest.fit(prints(parts[0]), _targets(parts[0]).numpy())
    found = {}
    for name, part in zip(("valid_error", "test_error"), parts[1:], strict=True):
        values = prints(part)
        out = forest.predict_proba(values)[:, 1] if binary else forest.predict(values)
        found[name] = error(torch.from_numpy(out), _targets(part), binary)
    return found


def _network(parts, config):
    """Train for a fixed number of epochs; the one best in validation counts."""
    seed, binary = config["seed"], _is_binary(parts)
    hidden = matched_hidden(config["pooling"])
    torch.manual_seed(seed)
    model = Model(config["pooling"], hidden, config["task"] != "molecule")
    train, *others = parts
    y = _targets(train)
    shift, scale = (0.0, 1.0) if binary else (y.mean(), y.std())
    loss_of = nn.functional.binary_cross_entropy_with_logits
    loss_of = loss_of if binary else nn.functional.mse_loss
    others = [_batches(part, 256) for part in others]
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, fused=True)
    steps = config["epochs"] * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LEARNING_RATE, total_steps=steps
    )

    @torch.no_grad()
    def evaluate(part):
        model.eval()
        scores = torch.cat([model(batch) for batch in part]) * scale + shift
        return error(scores, torch.cat([batch.y for batch in part]), binary)

    best = float("inf"), 0, float("nan")
    # Arms of one seed see the same molecules in the same order.
    order = random.Random(seed)
    rounds = min(SHUFFLES, max(1, KEPT_GRAPHS // len(train)))
    shuffled = [_batches(order.sample(train, len(train)), BATCH) for _ in range(rounds)]
    for epoch in range(config["epochs"]):
        model.train()
        batches = shuffled[epoch % rounds]
        for batch in order.sample(batches, len(batches)):
            loss = loss_of(model(batch), (batch.y - shift) / scale)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        valid = evaluate(others[0])
        if valid < best[0]:
            best = valid, epoch + 1, evaluate(others[1])
    found = dict(zip(("valid_error", "best_epoch", "test_error"), best, strict=True))
    count = count_parameters(config["pooling"], hidden)
    return found | {"parameters": count, "hidden": hidden}


def _batches(graphs, size):
    return list(AtomTokenLoader(graphs, size, exclude_keys=LEFT_OUT))
