import pytest
import yaml

from experiments.sweep.grid import expand, grid_from_data, load_grid, shipped_grids
from fedmm_secure.errors import ConfigError
from tests.conftest import TINY


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return str(path)


def grid(base, **fields):
    return grid_from_data({"base": base, **fields}, source="test")


def test_cells_are_the_product_of_each_block_and_the_seeds(base):
    found = expand(
        grid(
            base,
            set={"quantizer.latent_dim": 3},
            blocks=[
                {"axes": {"quantizer.global_codes": [4, 8], "aggregation.kind": ["plaintext", "ckks"]}},
                {"set": {"federation.rounds": 2}, "axes": {"quantizer.global_codes": [16]}},
            ],
            seeds=[0, 7],
        )
    )
    points = [(c.config.quantizer.global_codes, c.config.aggregation.kind, c.seed) for c in found]
    assert len(found) == len(set(points)) == 10
    assert (16, "masked-ckks", 7) in points  # the default
    assert all(cell.config.quantizer.latent_dim == 3 for cell in found)
    assert {cell.config.federation.rounds for cell in found if cell.config.quantizer.global_codes == 16} == {2}
    assert all(cell.config.seed == (cell.seed,) for cell in found)


def test_an_axis_that_a_block_leaves_alone_has_the_value_that_is_run(base):
    """A cell whose base has a budget must not stand in the table, and in figures, as one without."""
    budget = {"privacy.epsilon": 2}
    found = expand(grid(base, blocks=[{"axes": {"privacy.epsilon": [4]}}, {"set": budget}]))
    assert [cell.axes["privacy.epsilon"] for cell in found] == [4, 2]
    both = expand(grid("xmarket-dp", blocks=[{"axes": {"markets": [["ca", "de", "uk"]]}}, {}]))
    assert both[1].axes["markets"] == ["ca", "de", "fr", "in", "jp", "mx", "uk"]
    assert all(cell.config.privacy.epsilon == 8 for cell in both)


def test_the_name_changes_with_the_configuration_and_with_nothing_else(base, tmp_path):
    (plain,) = expand(grid(base))
    (same,) = expand(grid(base, set={"privacy.account": str(tmp_path / "account")}))
    (other,) = expand(grid(base, set={"ctr.dropout": 0.1}))
    assert plain.name == same.name
    assert plain.name != other.name
    assert same.config.privacy.account == tmp_path / "account"


def test_a_block_s_name_is_an_axis_and_cells_of_equal_configurations_stay_apart(base):
    found = expand(grid(base, blocks=[{"method": "a"}, {"method": "b, the same"}]))
    assert [cell.axes for cell in found] == [{"method": "a"}, {"method": "b, the same"}]
    assert found[1].name.startswith("method-b--the-same_seed-0_")
    assert expand(grid(base, blocks=[{"method": "a"}, {"method": "b"}]), there=[found[0].name]) == found[:1]


def test_equal_configurations_are_one_cell(base):
    assert len(expand(grid(base, blocks=[{"axes": {"quantizer.global_codes": [8, 8]}}]))) == 1


def test_markets_choose_among_those_of_the_base():
    sets = [["ca", "de", "uk"], ["mx", "de", "uk", "fr"]]
    found = expand(grid("xmarket", blocks=[{"axes": {"markets": sets}}]))
    assert [sorted(cell.config.data.markets) for cell in found] == [sorted(names) for names in sets]
    assert found[0].name.startswith("markets-ca+de+uk_seed-0")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blocks": [{"axes": {"quantizer.global_cods": [4]}}]}, "did you mean 'global_codes'"),
        ({"blocks": [{"axes": {"quantizer.global_codes": []}}]}, "has no values"),
        ({"blocks": [{"axes": {"seed": [1]}}]}, "use the grid's seeds"),
        ({"blocks": [{"set": {"method": "a"}}]}, "it is the name of a block"),
        ({"blocks": [{"method": "a", "against": "b"}]}, "against: no method b"),
        ({"blocks": [{"model": "popularity"}]}, "goes with method"),
        ({"blocks": [{"method": "a"}, {}]}, "name all blocks or none"),
        ({"seed": [1]}, "did you mean 'seeds'"),
        ({"seeds": [1, 1]}, "twice"),
        ({"attacks": {"names": ["membrship"]}}, "unknown attack membrship"),
        ({"base": "xmarkt"}, "did you mean 'xmarket'"),
        ({"set": {"markets": ["m0"]}}, "chosen by their number"),
    ],
)
def test_a_mistake_is_named(base, fields, message):
    with pytest.raises(ConfigError, match=message):
        expand(grid_from_data({"base": base, **fields}, source="test"))


def test_a_name_that_is_no_grid_gets_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'accuracy-vs-epsilon'"):
        load_grid("accuracy-vs-epsilo")


@pytest.mark.parametrize("name", shipped_grids())
def test_shipped_grids_expand(name):
    cells = expand(load_grid(name))
    assert len(cells) > 1
    assert len({cell.name for cell in cells}) == len(cells)


def test_the_grids_that_were_promised_ship():
    promised = "accuracy-vs-epsilon codebook-size markets-2-3-4-7 negatives aggregators leave-one-market-out results"
    assert set(promised.split()) <= set(shipped_grids())
