"""Generated markets taken for somebody's: what they are is told by the configuration, and only there."""

from fedmm_secure.config import Config, config_from_data

COLUMNS = {"path": "in-memory", "user": "user", "item": "item", "rating": "rating", "time": "time"}


def of_people(config: Config) -> Config:
    """The configuration of markets that are handed on in memory, as by ``FedMM``: what is spent on them is entered."""
    data = config.model_dump(mode="json")
    markets, found = data["data"].pop("synthetic")["markets"], data["privacy"].get("catalogue")
    catalogue = {} if found == "discovered" else {"catalogue": "in-memory"}
    data["data"]["markets"] = {f"m{number}": COLUMNS | catalogue for number in range(markets)}
    data["privacy"]["catalogue"] = found or "file"
    return config_from_data(data, source="test")
