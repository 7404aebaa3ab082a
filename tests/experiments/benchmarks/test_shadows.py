import json
import sys
from unittest.mock import patch

import pytest
import yaml

from experiments import cli
from tests.conftest import TINY


def test_both_ways_are_timed_and_see_the_same(tmp_path, capsys):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | {"ctr": {"max_epochs": 1, "refit": False}}))
    command = ["fedmm", "bench", "shadows", str(path), "--models", "4", "--repetitions", "2"]
    with patch.object(sys, "argv", [*command, "--target", "local-ids", "--json"]), pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    (found,) = json.loads(capsys.readouterr().out)
    assert found["looped"]["value"] > 0
    assert found["speed_up"]["value"] > 0
    assert abs(found["difference"]["value"]) < 0.2
