"""A market starts from what a federation left, its head and its frozen global codebook, before it is a party of it.

A run that grew no head, as one with a budget, leaves the codebook; the head is then one of generated markets, which
nobody's rows are in. Of the market's own rows a head knows features alone; nothing of the market leaves it. What is
fitted is fitted to raw rows: it has no guarantee, and the account of the rows says so before they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.config import Config, DataConfig, data_of_newcomer
from fedmm_secure.data.prepare import PreparedMarket, prepare_one
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.federation.account import enter_without_bound
from fedmm_secure.federation.closed_run import ClosedRun
from fedmm_secure.foreign.formats import parse_arrays, parse_tensors
from fedmm_secure.guarantee.head_columns import BINS, NAMES
from fedmm_secure.heads.examples import market_examples
from fedmm_secure.heads.generated import generated_head
from fedmm_secure.heads.own import own_head
from fedmm_secure.heads.trees import Head
from fedmm_secure.quantization.build import model_for, refine_quantizer
from fedmm_secure.results.artefacts import save_codes, save_quantizer
from fedmm_secure.storage.encoding import arrays_bytes
from fedmm_secure.storage.files import new_directory, write_atomic, write_json
from fedmm_secure.storage.layout import RunDirectory
from privacy.foreign import ForeignFileError

RESULT = "joined.json"
UNBOUNDED = (
    "trained on the market's raw rows, and chosen by exact figures of them: nothing bounds what models, codes and "
    "figures say of a user; the privacy account has it as a run without a budget"
)
FEDERATION, GENERATED, OWN, BOTH = "federation", "generated", "own", "both"


@dataclass(frozen=True)
class Joined:
    """What a joining market may serve, and what was chosen.

    Attributes:
        market: its name.
        users: that it knows.
        chosen: ``federation`` (the head of the others) or, where they grew none, ``generated`` (the head of generated
            markets), ``own``, or ``both`` (own trees that are told what the head says): the one of largest validation
            AUC.
        validation: AUC by which it was chosen.
        auc: of the test candidates, the order by counts (``popularity``) among them.
        epsilon: None: there is no bound.
        epsilon_note: why.
    """

    market: str
    users: int
    chosen: str
    validation: dict[str, float]
    auc: dict[str, float]
    epsilon: None = None
    epsilon_note: str = UNBOUNDED


def join_market(
    run: Path,
    config: Config,
    data: DataConfig,
    market: str,
    directory: Path,
    account: Path | None = None,
    told: Callable[[PreparedMarket], None] = lambda prepared: None,
) -> Joined:
    """Fit what a market needs beside the federation's head; leaves models, codes and ``joined.json``.

    It is entered in the account of the market's rows as a run without a budget.

    Args:
        run: directory of the federation's finished run.
        config: of that run; its choices hold here too.
        data: where the new market's rows are, and how they are read; the files of no other market are.
        market: its name.
        directory: where the result goes, all of it or nothing; new, or empty.
        account: the privacy account that its owner names; by default the user's.
        told: what was read of the market's rows, before anything is fitted to them.

    Raises:
        AccountError: the account cannot be read or written; nothing was trained.
        ConfigError: the market is in that run, its rows lack what that run's choices need, or the run is of a kind that
            nobody can join this way.
        DataError: the market's rows cannot be used.
        RunDirectoryError: the run lacks what it left to markets, or the directory is taken.
    """
    if market in config.data.names:
        raise ConfigError(f"market {market}: is in {run}, whose head knows its rows; name one that is not")
    if market not in data.names:
        raise ConfigError(f"market {market}: the configuration's markets are {', '.join(data.names)}")
    if config.data.shared_items:
        raise ConfigError(f"{run}: data.shared_items: its space is made of sums that a new market is no part of")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunDirectoryError(f"{directory}: not empty; choose another --out")
    own = config.model_copy(update={"data": data_of_newcomer(config.data, data, market)})
    kept = _head(run, config) if config.head.trees else None
    words = {seed: _global_codebook(run, config, seed) for seed in config.seed}
    privacy = config.privacy.model_copy(update={"account": account})  # the run's maker names none for others' rows
    own = own.model_copy(update={"privacy": privacy})
    prepared = prepare_one(own.data, market)
    told(prepared)
    usable = prepared.usable()
    enter_without_bound(own, directory, prepared)
    head = generated_head(own.data) if kept is None else kept
    joined = _judged(own, usable, GENERATED if kept is None else FEDERATION, head)
    try:
        with new_directory(directory) as made:
            _codes(own, prepared, words, made)
            write_atomic(RunDirectory(made).head(market), arrays_bytes(head.to_arrays()))
            write_json(made / RESULT, asdict(joined))
    except OSError as error:
        raise RunDirectoryError(f"{directory}: cannot be written: {error.strerror}; choose another --out") from error
    return joined


def _judged(config: Config, prepared: PreparedMarket, whose: str, head: Head) -> Joined:
    market, examples = prepared.market, market_examples(prepared, config)
    label = examples.test.label
    scores = {whose: head.log_odds(examples.test.bins)}
    validation = {whose: float(roc_auc_score(examples.valid.label, head.log_odds(examples.valid.bins)))}
    for name, told in ((OWN, None), (BOTH, head)):
        found = own_head(examples, told, market.name)
        if found is not None:
            scores[name], validation[name] = found.test, found.validation_auc
    auc = {name: float(roc_auc_score(label, found)) for name, found in scores.items()}
    auc["popularity"] = float(roc_auc_score(label, examples.popularity))
    return Joined(market.name, market.n_users, max(validation, key=lambda name: validation[name]), validation, auc)


def _codes(config: Config, prepared: PreparedMarket, words: dict[int, np.ndarray], directory: Path) -> None:
    """Codes against the frozen global codebook: encoder, decoder and local codebook are the market's own."""
    name, embedding = prepared.market.name, fit_embedding(prepared, config.embedding)
    quantizers = {}
    for seed, codewords in words.items():
        federated = model_for(config, embedding)
        if federated.global_codebook.codewords.shape != codewords.shape:
            raise RunDirectoryError(f"the global codebook of seed {seed} is not of the shape that its run configured")
        federated.global_codebook.codewords.data.copy_(federated.global_codebook.codewords.new_tensor(codewords))
        quantizers[seed] = {name: refine_quantizer(config, federated, embedding, name, seed)}
        save_quantizer(quantizers[seed][name], directory, name, seed, kind="refined")
    save_codes(config, directory, {name: prepared}, {name: embedding}, quantizers)


def _head(run: Path, config: Config) -> Head:
    path, data = _first(run, config, RunDirectory.head, "head")
    try:
        head = Head.from_arrays(parse_arrays(data, path))
        shape = (config.head.trees, 2**config.head.depth - 1)
        right = head.feature.shape == head.last_left.shape == shape and head.value.shape == (shape[0], shape[1] + 1)
        inside = ((head.feature >= 0) & (head.feature < len(NAMES))).all() and (abs(head.last_left) < BINS).all()
        typed = head.feature.dtype == head.last_left.dtype == np.int64 and head.value.dtype == np.float64
        if not (right and inside and typed and np.isfinite(head.value).all() and np.isfinite(head.prior)):
            raise ValueError("other arrays than its configuration says")
    except (KeyError, TypeError, ValueError) as error:
        raise ForeignFileError(f"{path}: no head: {str(error)[:200]}") from error
    return head


def _global_codebook(run: Path, config: Config, seed: int) -> np.ndarray:
    """Codewords ``(n_codes, dim)``: the same in every market."""
    path, data = _first(run, config, lambda layout, market: layout.quantizer(market, seed), "RQ-VAE")
    tensors = parse_tensors(data, path)
    if "global_codebook.codewords" not in tensors:
        raise ForeignFileError(f"{path}: holds no global codebook")
    return np.asarray(tensors["global_codebook.codewords"].numpy(), dtype=np.float32)


def _first(run: Path, config: Config, path_of: Callable[[RunDirectory, str], Path], what: str) -> tuple[Path, bytes]:
    """A file that is the same in every market, of the first that has it, as its ledger was closed with it."""
    for market in config.data.names:
        path = path_of(RunDirectory(run), market)
        if path.is_file():
            return path, ClosedRun(run, market).file(path)
    raise RunDirectoryError(f"{run}: no {what} of any market; has the run finished (fedmm run --resume)?")
