"""Where the files of somebody's run are, by the reader's word."""

import pytest

from experiments.runs.configuration import readers_data
from fedmm_secure.config import DataConfig, MarketFile
from fedmm_secure.errors import ConfigError


def test_a_folder_that_is_missing_is_named(tmp_path):
    data = DataConfig(markets={"m0": MarketFile(path="m0.csv", user="user", item="item")})
    assert readers_data(data, tmp_path).root == tmp_path
    with pytest.raises(ConfigError, match=r"nowhere: no such folder; --data, or FEDMM_DATA, names that of the markets"):
        readers_data(data, tmp_path / "nowhere")
