"""What may never change: old ledgers, messages and run directories are read by every later version.

What stands here was written once and is compared, never generated from the code. ``fixtures/run.zip`` is what an early
run hands out: three synthetic markets under ``protect: release``. Whoever has to change a line here makes a new format
version, and keeps reading the old one.
"""

import zipfile
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import get_args

import pytest
from dp_accounting import dp_event

from experiments.verification.evidence import read_configuration, read_evidence
from fedmm_secure.federation import canaries, coins, noise_chain
from fedmm_secure.federation.messages import Header, MessageKind, unpack
from fedmm_secure.guarantee import stages
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.events import event_from_data, event_to_data
from privacy.accounting.fingerprints import fingerprint_key
from privacy.accounting.ledger import Entry, read_ledger

FIXTURE = Path(__file__).parent / "fixtures" / "run.zip"
MARKETS = ("m0", "m1", "m2")

EVENTS = [
    ({"kind": "non-private"}, dp_event.NonPrivateDpEvent()),
    ({"kind": "no-op"}, dp_event.NoOpDpEvent()),
    ({"kind": "gaussian", "noise_multiplier": 1.5}, dp_event.GaussianDpEvent(1.5)),
    ({"kind": "randomised-response", "noise": 0.5, "values": 8}, dp_event.RandomizedResponseDpEvent(0.5, 8)),
    (
        {"kind": "self-composed", "count": 7, "event": {
            "kind": "poisson-sampled", "sampling_rate": 0.1, "event": {"kind": "gaussian", "noise_multiplier": 1.0}}},
        dp_event.SelfComposedDpEvent(dp_event.PoissonSampledDpEvent(0.1, dp_event.GaussianDpEvent(1.0)), 7),
    ),
    ({"kind": "composed", "events": [{"kind": "no-op"}]}, dp_event.ComposedDpEvent([dp_event.NoOpDpEvent()])),
]  # fmt: skip
STAGES = {
    "CATALOGUE": "catalogue", "COUNTS": "counts", "SHARED_COUNTS": "shared-counts", "SHARED_GRAM": "shared-gram",
    "EMBEDDING": "embedding", "QUANTIZER": "quantizer", "REFINEMENT": "refinement", "CTR": "ctr",
    "EVALUATION": "evaluation", "MODEL": "quantizer-model", "ITEM_CODES": "item-codes", "USER_CODES": "user-codes",
}  # fmt: skip
VIEWS = ("server", "market", "collusion", "consumer", "release", "profile")
HEADER = ("kind", "run", "stage", "round", "attempt", "sender", "parameters", "cohort")
KINDS = ("start", "hello", "statement", "update", "aggregate")
ENTRY = {
    "stage", "market", "mechanism", "event", "sensitivity", "unit", "audience", "delta", "extra_delta", "round",
    "attempt", "depends_on", "coordinates", "seeded", "remark", "view_events",
}  # fmt: skip
LAYOUT = {
    "config": "config.yaml",
    "environment": "environment.json",
    "metrics": "metrics.json",
    "log": "log.jsonl",
    "page": "report.html",
    "transcript": "transcript",
    "ledger": "ledger/m0.jsonl",
    "private": "private/m0",
    "private_key": "private/m0.key",
    "codes": "codes/m0.parquet",
    "predictions": "predictions/m0.parquet",
    "models": "models/m0",
    "attacks": "attacks",
    "audits": "audit",
    "state": "state",
}

FIRST_LINK = "73b7a5f8ea1e9e8a8ec1ee4fdeecc7fe8c407f3d78e52e415ac8edc24ac8379b"
RELEASE_KEY = "1f42e894f71a4a8e3465f6956e0070a89e397514c1b4fe7cc197a39a75399cc6"
PLACE_KEY = "b49ac329af87d1174cb09d719cf22b901cb7c0a4b159fe1e6684c6a6c5b5a286"
READERS_KEY = "7156067338f2dc643868aee3f9439ac3c25b79cbc131d049840945aa43e2d719"
NEXT_LINK = "447632cb13ba6c22c4ef2f37340e6d9f047c956f4229d551fdf71e8a5ee10e0d"


@pytest.mark.parametrize(("data", "event"), EVENTS, ids=[data["kind"] for data, _ in EVENTS])
def test_an_event_of_a_ledger_reads_and_writes_as_ever(data, event):
    assert event_from_data(data) == event
    assert event_to_data(event) == data


def test_stages_and_views_keep_their_names():
    assert {name: getattr(stages, name) for name in STAGES} == STAGES
    assert stages.ALL_VIEWS == VIEWS
    assert stages.seed_stage("quantizer", 3) == "quantizer/3"


def test_a_message_keeps_its_header():
    assert tuple(field.name for field in fields(Header)) == HEADER
    assert get_args(MessageKind) == KINDS


@pytest.mark.parametrize("name", LAYOUT)
def test_a_run_directory_keeps_its_places(name):
    place = getattr(RunDirectory(), name)
    assert (place if isinstance(place, Path) else place("m0")).as_posix() == LAYOUT[name]


def test_models_keep_their_files():
    names = RunDirectory()
    assert names.quantizer("m0", 3).as_posix() == "models/m0/quantizer-3.pt"
    assert names.quantizer("m0", 3, kind="refined").as_posix() == "models/m0/refined-3.pt"
    assert (names.ctr("m0", 3).name, names.ctr("m0", 3, "npz").name) == ("ctr-3.pt", "ctr-3.npz")


@pytest.fixture(scope="module")
def old_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(FIXTURE) as kept:
        kept.extractall(folder)
    return folder


def test_an_old_run_is_read_without_a_finding(old_run):
    """Configuration, metrics, bundle, ledgers, every message: its form, its hash, its signature."""
    config, metrics = read_configuration(old_run)
    evidence, unreadable = read_evidence(old_run, config, metrics)
    assert {check: found for check, found in unreadable.items() if found} == {}
    assert (config.privacy.epsilon, config.privacy.protect, config.seed) == (8.0, "release", (0,))
    assert tuple(evidence.bundle.markets) == MARKETS
    assert evidence.environment["packages"]["fedmm-secure"] == "0.1.0"
    assert len(evidence.messages.records) == len(evidence.messages.index) > 40


def test_its_ledger_says_what_it_said(old_run):
    content = read_ledger(old_run / "ledger" / "m0.jsonl")
    opening, closing = content.opening, content.closing
    assert (opening["market"], opening["users"], opening["items"]) == ("m0", 60, 30)
    assert opening["noise"]["counts"] == pytest.approx(0.478, abs=1e-3)
    assert closing["card"]["name"] == "m0"
    assert set(content.entries[0].to_data()) == ENTRY
    assert all(Entry.from_data(entry.to_data()) == entry for entry in content.entries)
    charged = ["counts", "embedding", "quantizer/0", "quantizer/0", "quantizer-model/0", "item-codes/0", "ctr/0"]
    assert [entry.stage for entry in content.entries] == charged
    assert content.entries[2].event == dp_event.SelfComposedDpEvent(
        dp_event.PoissonSampledDpEvent(0.2, dp_event.GaussianDpEvent(opening["noise"]["quantizer"])), 2
    )


def test_its_messages_say_what_they_said(old_run):
    folder = old_run / "transcript"
    header, payload = unpack((folder / "quantizer" / "0" / "0001-update-m1.bin").read_bytes())
    assert (header.kind, header.stage, header.round, header.attempt, header.sender) == (
        "update", "quantizer/0", 1, 0, "m1",
    )  # fmt: skip
    assert header.cohort == MARKETS
    assert len(payload) > 0
    kinds = {path.name.split("-")[1] for path in folder.rglob("*.bin")}
    assert kinds == {*KINDS, "publication", "meter", "sum"}


def test_a_run_with_an_auditor_keeps_its_words():
    """Stage of the second line, and what first and last lines add."""
    assert (coins.COINS, coins.REPLAY, canaries.CANARIES) == ("auditors-coin", "replay", "canaries")
    assert coins.coin_text("m0", "run", "aa") == b'fedmm-secure coin\0{"market":"m0","opening":"aa","run":"run"}'
    assert coins.first_link(b"c" * 32, b"s" * 64, "m0", "run").hex() == FIRST_LINK
    assert noise_chain.release_key(b"l" * 32, "m0", ("quantizer/0", 1, 0)).hex() == RELEASE_KEY  # of version 1
    assert noise_chain.release_key(b"l" * 32, "m0", ("quantizer/0", 1)).hex() == PLACE_KEY
    assert fingerprint_key(b"k" * 32, reader="ab cd").hex() == READERS_KEY  # an auditor's book compares with it
    assert next(islice(noise_chain.links(b"l" * 32), 1, None)).hex() == NEXT_LINK
