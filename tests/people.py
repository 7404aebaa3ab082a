"""Generated markets taken for somebody's: what they are is told by the configuration, and only there."""

from pathlib import Path
from typing import Any

from experiments.runs.markets import synthesize_files
from fedmm_secure.config import Config, config_from_data
from fedmm_secure.data.synthetic import SyntheticSpec

COLUMNS = {"user": "user", "item": "item", "rating": "rating", "time": "time"}


def of_people(config: Config) -> Config:
    """The configuration of markets that are handed on in memory, or that ``synthesize_files`` wrote somewhere.

    What is spent on them is entered in an account.
    """
    data = config.model_dump(mode="json")
    markets, found = data["data"].pop("synthetic")["markets"], data["privacy"].get("catalogue")
    data["data"]["markets"] = files = {}
    for name in (f"m{number}" for number in range(markets)):
        catalogue = {} if found == "discovered" else {"catalogue": f"{name}.items.txt"}
        files[name] = COLUMNS | {"path": f"{name}.csv"} | catalogue
    data["privacy"]["catalogue"] = found or "file"
    return config_from_data(data, source="test")


def as_files(folder: Path, **sections: Any) -> dict[str, Any]:
    """Sections of a configuration whose generated markets are read from files in ``folder``, which are written."""
    files = synthesize_files(SyntheticSpec(**sections["data"]["synthetic"]), folder)
    markets = {name: file.model_dump(mode="json", exclude_defaults=True) for name, file in files.items()}
    data = {key: value for key, value in sections["data"].items() if key != "synthetic"}
    data |= {"root": str(folder), "markets": markets}
    return {**sections, "data": data, "privacy": {**sections.get("privacy", {}), "catalogue": "file"}}
