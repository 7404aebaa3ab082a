"""The Python API: load markets, fit, read metrics and codes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pandas as pd

from fedmm_secure.config import Config, MarketFile, config_from_data, configuration_hash
from fedmm_secure.config.choices import MISSING, BadRows
from fedmm_secure.data.loaders import load_market as load_market_file
from fedmm_secure.data.market import FloatArray, Market, brings_catalogue
from fedmm_secure.data.prepare import prepare
from fedmm_secure.data.same_rows import refuse_same, same_rows
from fedmm_secure.errors import RunDirectoryError
from fedmm_secure.pipeline import Listener, run_pipeline, tell_all
from fedmm_secure.recommending.accounts import rows_of_frame
from fedmm_secure.recommending.recommend import Recommender, predict, prepared_of_run, recommend
from fedmm_secure.results.scoring import MarketScorer
from fedmm_secure.storage.layout import CONFIG_FILE, RunDirectory
from fedmm_secure.storage.run_directory import begin, read_config

__all__ = ["FedMM", "load_market", "predict", "recommend"]

_FITTED = frozenset({"config_", "directory_", "metrics_", "_prepared", "_scorers", "_recommenders"})


def load_market(
    path: str | Path,
    name: str | None = None,
    *,
    on_bad_rows: BadRows = "error",
    missing: Sequence[str] = MISSING,
    **columns: Any,
) -> Market:
    """Load one market from a delimited or Parquet file.

    Args:
        path: the file.
        name: the market's name; by default the file's name without its endings.
        on_bad_rows: ``error`` refuses a file with bad rows, ``skip`` leaves them out.
        missing: spellings of a field in which there is nothing.
        columns: ``user``, ``item``, ``rating``, ``time``, ``time_unit``, ``separator``, ``quoting``, ``header``,
            ``width``, ``catalogue`` as in a configuration.

    Raises:
        DataError: names the file and, where there is one, the line.
    """
    path = Path(path)
    file = MarketFile(path=path, **columns)
    return load_market_file(file, name or path.name.split(".")[0], on_bad_rows=on_bad_rows, missing=missing)


class FedMM:
    """FedMM over markets in memory; the constructor takes configuration sections as keywords.

    Example::

        FedMM(seed=0, privacy={"epsilon": 8}).fit({"ca": ca, "de": de, "uk": uk})

    Attributes:
        metrics_: the content of ``metrics.json``.
        config_: the resolved configuration.
        directory_: the run directory, with ledgers, transcript, codes and models.
    """

    def __init__(self, **sections: Any) -> None:
        self.sections = sections

    def fit(
        self, markets: Mapping[str, Market], directory: str | Path | None = None, callbacks: Sequence[Listener] = ()
    ) -> Self:
        """Run all stages; leaves a run directory (a temporary one by default) for ``fedmm report`` and ``verify``.

        Args:
            markets: by name; whatever a market was called before, that is its name in the run and its account.
            directory: where the run is kept; a run that was killed there goes on.
            callbacks: each is told of progress as (event, fields): ``started``, ``market``, ``outlook`` (what the
                privacy account will say of the run, before it spends), ``stage`` (one begins), ``round``, ``ctr``,
                ``finished``.

        Raises:
            ConfigError: a section has an unknown or ill-typed key.
            RunDirectoryError: the directory holds a run of another configuration, or of other rows.
            DataError: a market is too small to train or measure anything, or two were read from files of the same rows.
        """
        for name in _FITTED & vars(self).keys():  # what an earlier fit left says nothing of this one, should it fail
            delattr(self, name)
        config = self._config(markets)
        named = {name: replace(market, name=name) for name, market in sorted(markets.items())}
        refuse_same(same_rows(named.values(), {}))
        prepared = {name: prepare(market, config.data).usable() for name, market in named.items()}
        run = Path(directory) if directory else Path(tempfile.mkdtemp(prefix="fedmm-")) / "run"
        if not (run / CONFIG_FILE).is_file():
            begin(run, config)
        elif configuration_hash(read_config(run)) != configuration_hash(config):  # one that was killed goes on as it is
            raise RunDirectoryError(f"{run}: holds a run of another configuration; choose another directory")
        metrics = run_pipeline(config, prepared, run, tell_all(callbacks))
        self.config_, self.directory_, self.metrics_, self._prepared = config, run, metrics, prepared
        self._scorers: dict[str, MarketScorer] = {}
        self._recommenders: dict[str, Recommender] = {}
        return self

    def predict(self, market: str, users: Sequence[str], items: Sequence[str]) -> FloatArray:
        """Click probabilities ``(n,)`` of pairs of a market, the mean over seeds; NaN for items outside the pool.

        Under ``protect: release`` every item of the catalogue has one.

        Raises:
            DataError: a user or an item that the market does not have.
        """
        if market not in self._scorers:
            prepared = prepared_of_run(self.directory_, self.config_, market, self._prepared[market])
            self._scorers[market] = MarketScorer(self.directory_, self.config_, prepared)
        return self._scorers[market](users, items)

    def recommend(
        self, market: str, users: Sequence[str], k: int = 10, history: pd.DataFrame | None = None
    ) -> pd.DataFrame:
        """The top ``k`` items for users of a market, new ones included; see ``fedmm_secure.recommend``.

        Example: two users of the market, and one who met two of its items and is in no data::

            >>> import pandas as pd
            >>> from fedmm_secure import FedMM
            >>> from fedmm_secure.config import SyntheticSpec
            >>> from fedmm_secure.data.synthetic import synthesize
            >>> markets = {found.market.name: found.market for found in synthesize(SyntheticSpec(users=60, items=40))}
            >>> model = FedMM(seed=0, federation={"rounds": 1}, ctr={"baselines": []}).fit(markets)
            >>> new = pd.DataFrame({"user": ["new", "new"], "item": ["m0-i00000", "m0-i00001"]})
            >>> found = model.recommend("m0", ["m0-u00003", "new"], k=3, history=new)
            >>> found[["user", "rank"]].values.tolist()
            [['m0-u00003', 1], ['m0-u00003', 2], ['m0-u00003', 3], ['new', 1], ['new', 2], ['new', 3]]
            >>> set(found.item[found.user == "new"]) & set(new.item)
            set()

        Raises:
            DataError: a user without rows, or rows that cannot be used.
        """
        if market not in self._recommenders:
            data = self._prepared.get(market)
            self._recommenders[market] = Recommender(self.directory_, self.config_, market, data)
        rows = None if history is None else rows_of_frame(history, self.config_.data.missing)
        return self._recommenders[market](users, k, rows)

    def codes(self, market: str) -> pd.DataFrame:
        """Codes of a market's users and items: ``id, global_code, local_code, kind, seed``."""
        return pd.read_parquet(RunDirectory(self.directory_).codes(market))

    def _config(self, markets: Mapping[str, Market]) -> Config:
        sections = dict(self.sections)
        source: dict[str, Any] = {"path": "in-memory", "rating": "rating", "time": "time"}
        # that the items found in the rows are public, nobody declares in silence
        known = {
            name: {"catalogue": "in-memory"} if brings_catalogue(market) else {} for name, market in markets.items()
        }
        sections["data"] = {**sections.get("data", {}), "markets": {name: source | known[name] for name in markets}}
        if all(known.values()):  # the markets were made with their catalogues: that is the choice
            sections["privacy"] = {"catalogue": "file", **sections.get("privacy", {})}
        return config_from_data(sections, source="FedMM")
