import gzip

import numpy as np
import pandas as pd
import pytest

from fedmm_secure.config import MarketFile
from fedmm_secure.data.loaders import load_market
from fedmm_secure.errors import DataError

HEADER = "user,item,rating,time\n"


def rows(n_users=12, n_items=12, per_user=5):
    return [
        (f"u{user}", f"i{(user + step) % n_items}", 1 + (user + step) % 5, f"2020-01-{1 + step:02d}")
        for user in range(n_users)
        for step in range(per_user)
    ]


def write(path, lines, header=HEADER, newline="\n", encoding="utf-8"):
    text = header + "".join(",".join(map(str, line)) + "\n" for line in lines)
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    return path


def mapped(path, **more):
    return MarketFile(path=path, user="user", item="item", **{"rating": "rating", "time": "time", **more})


def same(left, right):
    for field in ("user", "item", "rating"):
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field))
    assert list(left.user_ids) == list(right.user_ids)
    assert list(left.item_ids) == list(right.item_ids)


@pytest.fixture
def plain(tmp_path):
    return write(tmp_path / "m.csv", rows())


def test_rows_are_grouped_by_user_and_ordered_by_time(plain):
    market = load_market(mapped(plain), "m")
    assert (market.n_users, market.n_items, market.n_rows) == (12, 12, 60)
    assert (np.diff(market.user) >= 0).all()
    within = np.diff(market.time)[np.diff(market.user) == 0]
    assert (within >= 0).all()


def test_windows_line_ends_a_bom_and_blank_lines_change_nothing(plain, tmp_path):
    windows = write(tmp_path / "w.csv", rows(), newline="\r\n", encoding="utf-8-sig")
    windows.write_bytes(windows.read_bytes() + b"\r\n\r\n")
    same(load_market(mapped(windows), "m"), load_market(mapped(plain), "m"))


def test_gzip_and_parquet_change_nothing(plain, tmp_path):
    zipped = tmp_path / "m.csv.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    parquet = tmp_path / "m.parquet"
    pd.read_csv(plain, parse_dates=["time"]).to_parquet(parquet)
    expected = load_market(mapped(plain), "m")
    same(load_market(mapped(zipped), "m"), expected)
    same(load_market(mapped(parquet), "m"), expected)


def test_columns_by_position_without_header(plain, tmp_path):
    bare = write(tmp_path / "bare.csv", rows(), header="")
    file = MarketFile(path=bare, user=0, item=1, rating=2, time=3, header=False)
    same(load_market(file, "m"), load_market(mapped(plain), "m"))


def test_without_time_and_rating_file_order_is_time(plain):
    market = load_market(mapped(plain, rating=None, time=None), "m")
    assert not market.has_time
    assert np.isnan(market.rating).all()
    first = market.item[market.user == list(market.user_ids).index("u3")]
    assert [market.item_ids[item] for item in first] == ["i3", "i4", "i5", "i6", "i7"]


def test_epoch_seconds_are_times(tmp_path):
    lines = [(user, item, rating, 1_600_000_000 - position) for position, (user, item, rating, _) in enumerate(rows())]
    market = load_market(mapped(write(tmp_path / "m.csv", lines)), "m")
    chosen = market.item[market.user == list(market.user_ids).index("u3")]
    assert [market.item_ids[item] for item in chosen] == ["i7", "i6", "i5", "i4", "i3"]


def test_of_duplicate_pairs_the_latest_stays(tmp_path):
    lines = [*rows(), ("u0", "i0", 5, "2021-01-01"), ("u0", "i0", 2, "2019-01-01")]
    market = load_market(mapped(write(tmp_path / "m.csv", lines)), "m")
    user, item = list(market.user_ids).index("u0"), list(market.item_ids).index("i0")
    found = market.rating[(market.user == user) & (market.item == item)]
    assert found.tolist() == [5.0]


def test_ids_beyond_ascii_are_kept(tmp_path):
    lines = [("u0", f"品目-{n}", 3, "2020-02-01") for n in range(3)] + [("Zoë Ж", "i1", 3, "2020-02-01")]
    market = load_market(mapped(write(tmp_path / "m.csv", [*rows(), *lines])), "m")
    assert "品目-2" in market.item_ids
    assert "Zoë Ж" in market.user_ids


def test_numbers_as_ids_stay_text(tmp_path):
    lines = [(f"{user[1:]:0>4}", item, rating, time) for user, item, rating, time in rows()]
    market = load_market(mapped(write(tmp_path / "m.csv", lines)), "m")
    assert market.user_ids[0] == "0000"


BAD = [
    (("u1", "i1", "five", "2020-01-01"), "rating 'five' is not a number"),
    (("u1", "i1", "nan", "2020-01-01"), "no rating: 'nan' says that it is missing"),
    (("u1", "i1", "1e400", "2020-01-01"), "rating '1e400' is not a number"),
    (("u1", "i1", "0x10", "2020-01-01"), "rating '0x10' is not a number"),
    (("u1", "i1", 5, "2500-01-01"), "time '2500-01-01' is outside 1677"),
    (("u1", "i1", 5, "0001-01-01"), "time '0001-01-01' is outside 1677"),
    (("u1", "i1", 5, "2020-02-30"), "time '2020-02-30' is neither"),
    (("NULL", "i1", 5, "2020-01-01"), "no user id: 'NULL' says that it is missing"),
    (("u1", "\\N", 5, "2020-01-01"), "no item id: '\\\\N' says that it is missing"),
    (('"u1', "i1", 5, "2020-01-01"), 'a quotation mark (") that is not closed on its line'),
    (('u"1"', "i1", 5, "2020-01-01"), 'a quotation mark (") inside a field'),
    (('"u"1', "i1", 5, "2020-01-01"), 'a quotation mark (") inside a field'),
    (("u1\r", "i1", 5, "2020-01-01"), "holds a carriage return"),
    (("u1\0", "i1", 5, "2020-01-01"), "holds a NUL character"),
    (("u1", "i1", 5, "yesterday"), "time 'yesterday' is neither"),
    (("u1", "", 5, "2020-01-01"), "empty item id"),
    (("", "i1", 5, "2020-01-01"), "empty user id"),
    (("u1", "i1", 5), "3 fields where 4 were expected"),
    (("u1", "i1", 5, "2020-01-01", "more"), "5 fields where 4 were expected"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, line, message):
    path = write(tmp_path / "m.csv", [*rows()[:10], line, *rows()[10:]])
    with pytest.raises(DataError) as caught:
        load_market(mapped(path), "m")
    assert f"{path}:12: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("line", "message"), BAD)
def test_bad_rows_are_skipped_and_counted_on_request(tmp_path, plain, line, message):
    path = write(tmp_path / "bad.csv", [*rows(), line])
    market = load_market(mapped(path), "m", on_bad_rows="skip")
    assert market.skipped_rows == 1
    same(market, load_market(mapped(plain), "m"))


def test_a_missing_column_gets_the_nearest_name(plain):
    with pytest.raises(DataError, match="no column 'ratng' for rating; did you mean 'rating'"):
        load_market(mapped(plain, rating="ratng"), "m")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no interactions"),
        ([("u0", f"i{n}", 3, "2020-01-01") for n in range(20)], "only 1 user;"),
    ],
)
def test_a_market_that_is_too_small_is_refused(tmp_path, lines, message):
    with pytest.raises(DataError, match=message):
        load_market(mapped(write(tmp_path / "m.csv", lines)), "m")


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_market(mapped(tmp_path / "none.csv"), "m")
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + "u0,caf\xe9,1,2020-01-01\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_market(mapped(tmp_path / "latin.csv"), "m")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(HEADER.encode() * 50)[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        load_market(mapped(tmp_path / "cut.csv.gz"), "m")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="Parquet"):
        load_market(mapped(tmp_path / "no.parquet"), "m")


def test_the_real_files_have_the_documented_sizes(real_data):
    file = MarketFile(path=real_data / "jp_5core.txt.gz", rating="rate", time="date")
    market = load_market(file, "jp")
    assert (market.n_users, market.n_items) == (487, 955)
    assert market.n_rows <= 4485
