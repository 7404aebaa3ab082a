import re
import xml.etree.ElementTree as ET
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from experiments.presentation import drawing as presentation
from experiments.presentation.drawing import PALETTE, Drawing, inline, styled, write_drawing
from experiments.reports.sweep_figures import sweep_drawings
from experiments.sweep.table import SCHEMA
from tests.figure_sketch import drawn, sketch


@pytest.fixture(autouse=True)
def no_sketches():
    with drawn():
        yield


@styled
def drawing(name="a b"):
    figure = Figure()
    axes = figure.subplots()
    (line,) = axes.plot([0, 1], [1, 2], label="x < y")
    line.set_gid("point")
    axes.legend()
    data = pd.DataFrame({"x": [0, 1], "y": [1, 2]})
    return Drawing(name, "Title & more", figure, data, {"point": "<b>note</b>"})


def test_a_figure_stands_beside_its_numbers(tmp_path):
    write_drawing(tmp_path, drawing("one"))
    assert {path.name for path in tmp_path.iterdir()} == {"one.svg", "one.png", "one.csv"}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "one.csv"), drawing().data)
    before = (tmp_path / "one.svg").read_bytes()
    write_drawing(tmp_path, drawing("one"))
    assert (tmp_path / "one.svg").read_bytes() == before  # the same figure, the same file
    ET.fromstring(before)


def test_sketches_are_the_same_of_the_same_figure_alone_and_hold_its_texts_and_marks():
    """What other tests have in place of figures."""
    label, data, colour, bar = (drawing().figure for _ in range(4))
    label.axes[0].set_xlabel("other")
    data.axes[0].lines[0].set_ydata([1, np.nextafter(2, 3)])
    colour.axes[0].lines[0].set_color("black")
    bar.axes[0].bar([0], [1])
    found = [sketch(figure, facecolor="white") for figure in (drawing().figure, label, data, colour, bar)]
    assert found[0] == sketch(drawing().figure, facecolor="white") != sketch(drawing().figure, transparent=True)
    assert len(set(found)) == 5
    with patch.object(presentation, "_svg", sketch):
        html = str(inline(drawing()))
    assert "<title>&lt;b&gt;note&lt;/b&gt;</title>" in html
    assert "x &lt; y" in html
    ET.fromstring(found[0])


def test_a_figure_in_a_page_is_well_formed_escaped_and_takes_the_pages_ink():
    html = str(inline(drawing()))
    ET.fromstring(re.search(r"<svg.*</svg>", html, re.DOTALL)[0])
    assert "currentColor" in html
    assert "#1a1a1b" not in html
    assert "<title>&lt;b&gt;note&lt;/b&gt;</title>" in html
    assert 'aria-label="Title &amp; more"' in html
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', html))
    assert used <= set(re.findall(r'\bid="([^"]+)"', html))


def luminance(colour):
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("ground", ["#ffffff", "#15181c"])
@pytest.mark.parametrize("colour", PALETTE)
def test_lines_stand_out_from_both_grounds(colour, ground):
    """WCAG 2.1, 1.4.11: graphical objects need a contrast of 3."""
    light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3.0


def table(**axes):
    """A sweep's table with one AUC for each point, market and seed."""
    names = list(axes)
    rows = []
    for index in np.ndindex(*(len(values) for values in axes.values())):
        point = {name: axes[name][i] for name, i in zip(names, index, strict=True)}
        for seed in (0, 1):
            for market in ("macro", "m0", "m1"):
                value = 0.6 + 0.01 * sum(index) + 0.001 * seed
                rows.append({**point, "cell": str((index, seed)), "seed": seed, "market": market, "model": "fedmm",
                             "metric": "auc", "value": value})  # fmt: skip
    return pd.DataFrame(rows, columns=["cell", *names, "seed", *SCHEMA])


def test_epsilon_is_drawn_as_a_pareto_front_with_the_line_without_dp():
    frame = table(**{"privacy.epsilon": [1.0, 8.0, None]})
    whole, by_market = sweep_drawings(frame, ["privacy.epsilon"])
    lines = whole.data.set_index(["line", "privacy.epsilon"])["mean"]
    assert lines["fedmm"].to_dict() == pytest.approx({1.0: 0.6005, 8.0: 0.6105})
    assert lines["fedmm, no DP"].iloc[0] == pytest.approx(0.6205)
    assert set(by_market.data["market"]) == {"m0", "m1"}


def test_attacks_are_on_the_second_axis():
    frame = table(**{"privacy.epsilon": [1.0, 8.0]})
    attack = {
        "seed": 0,
        "market": "m0",
        "model": "fedmm",
        "view": "release",
        "unit": "user",
        "metric": "membership_auc",
    }
    rows = [{**attack, "cell": str(e), "privacy.epsilon": e, "value": v, "low": v - 0.1, "high": v + 0.1}
            for e, v in ((1.0, 0.52), (8.0, 0.7))]  # fmt: skip
    whole, _ = sweep_drawings(pd.concat([frame, pd.DataFrame(rows)], ignore_index=True), ["privacy.epsilon"])
    found = whole.data[whole.data["line"] == "attack"].set_index("privacy.epsilon")
    assert found["mean"].to_dict() == {1.0: 0.52, 8.0: 0.7}
    assert found["high"].to_dict() == pytest.approx({1.0: 0.62, 8.0: 0.8})
    assert len(whole.figure.axes) == 2


def test_another_axis_is_drawn_by_its_values():
    frame = table(**{"quantizer.global_codes": [8.0, 64.0], "aggregation.kind": ["ckks", "plaintext"]})
    sizes, kinds = sweep_drawings(frame, ["quantizer.global_codes", "aggregation.kind"])
    wanted = sizes.data[(sizes.data["market"] == "macro") & (sizes.data["line"] == "plaintext")]
    assert wanted.set_index("quantizer.global_codes")["mean"].to_dict() == pytest.approx({8.0: 0.6105, 64.0: 0.6205})
    assert set(kinds.data["aggregation.kind"]) == {"ckks", "plaintext"}


def test_sets_of_markets_are_compared_with_the_largest():
    frame = table(markets=["m0+m1+m2", "m0+m1"])
    (drawn,) = sweep_drawings(frame, ["markets"])
    found = drawn.data[drawn.data["markets"] == "m0+m1"]
    assert found["difference"].tolist() == pytest.approx([0.01] * 4)  # paired by seed: two seeds, two markets
    assert (drawn.data.loc[drawn.data["markets"] == "m0+m1+m2", "difference"] == 0).all()
