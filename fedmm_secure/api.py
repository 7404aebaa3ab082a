"""The Python API: load markets, fit, read metrics and codes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pandas as pd

from fedmm_secure.config import Config, MarketFile, config_from_data
from fedmm_secure.config.choices import MISSING, BadRows
from fedmm_secure.data.loaders import load_market as load_market_file
from fedmm_secure.data.market import FloatArray, Market
from fedmm_secure.data.prepare import prepare
from fedmm_secure.pipeline import Listener, run_pipeline, tell_all
from fedmm_secure.results.scoring import MarketScorer
from fedmm_secure.storage.run_directory import CONFIG_FILE, begin


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
            markets: by name.
            directory: where the run is kept; a run that was killed there goes on.
            callbacks: each is told of progress as (event, fields): ``started``, ``market``, ``outlook`` (what the
                privacy account will say of the run, before it spends), ``round``, ``ctr``, ``finished``.

        Raises:
            ConfigError: a section has an unknown or ill-typed key.
            DataError: a market is too small.
        """
        self.config_ = config = self._config(markets)
        self._scorers: dict[str, MarketScorer] = {}
        self._prepared = prepared = {name: prepare(market, config.data) for name, market in sorted(markets.items())}
        self.directory_ = Path(directory) if directory else Path(tempfile.mkdtemp(prefix="fedmm-")) / "run"
        if not (self.directory_ / CONFIG_FILE).is_file():  # one that was killed goes on
            begin(self.directory_, config)
        self.metrics_ = run_pipeline(config, prepared, self.directory_, tell_all(callbacks))
        return self

    def predict(self, market: str, users: Sequence[str], items: Sequence[str]) -> FloatArray:
        """Click probabilities ``(n,)`` of pairs of a market, the mean over seeds; NaN for items outside the pool.

        Raises:
            DataError: a user or an item that the market does not have.
        """
        if market not in self._scorers:
            self._scorers[market] = MarketScorer(self.directory_, self.config_, self._prepared[market])
        return self._scorers[market](users, items)

    def codes(self, market: str) -> pd.DataFrame:
        """Codes of a market's users and items: ``id, global_code, local_code, kind, seed``."""
        return pd.read_parquet(self.directory_ / "codes" / f"{market}.parquet")

    def _config(self, markets: Mapping[str, Market]) -> Config:
        sections = dict(self.sections)
        source: dict[str, Any] = {"path": "in-memory", "rating": "rating", "time": "time"}
        known = {name: {"catalogue": "in-memory"} if market.catalogue else {} for name, market in markets.items()}
        sections["data"] = {**sections.get("data", {}), "markets": {name: source | known[name] for name in markets}}
        if all(known.values()):  # the markets were made with their catalogues: that is the choice
            sections["privacy"] = {"catalogue": "file", **sections.get("privacy", {})}
        return config_from_data(sections, source="FedMM")
