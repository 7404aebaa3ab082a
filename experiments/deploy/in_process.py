"""A deployed run again, in this process: are its models the same?"""

from __future__ import annotations

from pathlib import Path

import torch

from experiments.deploy.homes import Homes
from fedmm_secure.config import Config
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.foreign.formats import parse_tensors
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.service.market_service import run_directories
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import begin, read_config
from privacy.foreign import read_bytes


def compare_with_in_process(homes: Homes, directory: Path) -> dict[tuple[str, str], bool]:
    """Run the same configuration in process on the markets' files; whether each part of each RQ-VAE is the same."""
    config = _merged(homes)
    begin(directory, config)
    run_pipeline(config, prepare_markets(config.data), directory)
    same = {}
    for name in homes.markets:
        (deployed,) = run_directories(homes.market(name) / "runs")
        for seed in config.seed:
            file = RunDirectory().quantizer(name, seed)
            ours, theirs = (
                parse_tensors(read_bytes(folder / file, below=folder), file) for folder in (directory, deployed)
            )
            for part in sorted({key.split(".")[0] for key in ours}):
                keys = [key for key in ours if key.split(".")[0] == part]
                same[name, f"{part}, seed {seed}"] = all(torch.equal(ours[key], theirs[key]) for key in keys)
    return same


def _merged(homes: Homes) -> Config:
    """The markets' configuration with all their files."""
    names = homes.markets
    config = read_config(homes.market(names[0]))
    files = {name: file.located(homes.market(name) / "data") for name, file in config.data.markets.items()}
    found: dict[str, object] = {"markets": files, "root": None}
    if config.data.shared_catalogue is not None:  # the same list lies in every home
        lists = tuple(homes.market(names[0]) / "data" / file for file in config.data.shared_catalogue.files)
        found["shared_catalogue"] = config.data.shared_catalogue.model_copy(update={"files": lists})
    return config.model_copy(update={"data": config.data.model_copy(update=found)})
