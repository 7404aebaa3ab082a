import json

import yaml

from tests.command_line import fedmm
from tests.conftest import TINY


def test_both_aggregators_are_compared_with_a_plain_vector(tmp_path, capsys):
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY))
    status, out, _ = fedmm(capsys, "bench", "aggregation", config, "--repeat", 3, "--json")
    assert status == 0
    baseline, ours, masked = json.loads(out)
    assert baseline["speed_up"]["value"] == 1.0
    assert (ours["largest_error"], masked["largest_error"]) == (0.0, 0.0)
    assert ours["smaller"] > 3
    assert masked["smaller"] > 3
