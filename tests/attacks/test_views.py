import shutil
from dataclasses import replace

import pytest

from attacks.views import collusion_view, market_view, owner_values, release_view, server_view
from fedmm_secure.errors import RunDirectoryError


def test_views_hold_what_they_should_and_nothing_more(runs):
    kinds = {(o.kind, o.sender) for o in market_view(runs["ckks"], "m1").observations}
    said = {(kind, name) for kind in ("hello", "statement") for name in ("m0", "m1", "m2")}
    assert kinds == {("start", "server"), ("aggregate", "server"), ("sum", "server"), ("own-update", "m1"), *said}
    seen = {o.kind for o in server_view(runs["ckks"]).observations}
    assert seen == {"start", "hello", "statement", "update", "aggregate"}
    colluding = collusion_view(runs["ckks"], ["m0", "m1"])
    assert {o.sender for o in colluding.select("own-update")} == {"m0", "m1"}
    assert len(colluding.select("update")) == 36
    assert not release_view(runs["ckks"]).observations  # nothing is published without protect: release


def test_only_an_adversary_with_a_market_holds_a_key(runs):
    for kind, held in (("plaintext", False), ("ckks", True), ("masked-ckks", True)):
        assert (collusion_view(runs[kind], ["m0"]).key is not None) == held
        assert server_view(runs[kind]).key is None
        assert market_view(runs[kind], "m0").key is None
        assert owner_values(runs[kind]).key is None


def test_a_view_does_not_show_its_key(runs):
    view = collusion_view(runs["ckks"], ["m0"])
    assert view.key is not None
    assert view.key.secret.hex() not in repr(view)
    assert "key" not in repr(replace(view, observations=(), bundle=None))


def test_a_directory_without_transcript_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="is this a run directory"):
        server_view(tmp_path)


def test_collusion_needs_the_keys_of_a_market(runs, tmp_path):
    shutil.copytree(runs["ckks"] / "transcript", tmp_path / "transcript")
    with pytest.raises(RunDirectoryError, match="no keys"):
        collusion_view(tmp_path, ["m0"])
