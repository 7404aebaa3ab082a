"""A ledger against its plan, on ledgers made of the plan and changed: no pipeline runs."""

import hashlib
import math
from dataclasses import asdict, replace

import pytest
from dp_accounting.dp_event import ComposedDpEvent, GaussianDpEvent, NonPrivateDpEvent, NoOpDpEvent

from experiments.verification.spending import entry_lines, is_note, rounds_of, spending_findings
from fedmm_secure.config.audit import AuditConfig, CardConfig
from fedmm_secure.federation.coins import coin_note, coin_text
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.observed import observed_by_view
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.releases import Release, again
from fedmm_secure.guarantee.stages import DECRYPTED_VIEWS
from privacy.accounting.filters import noted_event, noted_failures
from privacy.accounting.guarantees import EARLIER_RUNS, EARLIER_RUNS_MECHANISM, LISTED_EARLIER_RUNS
from privacy.accounting.ledger import Ledger, read_ledger
from privacy.aggregation.identities import Identity
from tests.conftest import tiny
from tests.people import of_people

SIZES = {name: MarketSize(80, 40) for name in ("m0", "m1", "m2")}
NOISE = {"counts": 20.0, "embedding": 30.0, "quantizer": 20.0, "ctr": 20.0}
ROWS = "f" * 64
NOTHING = dict.fromkeys(DECRYPTED_VIEWS, ComposedDpEvent([]))
EARLIER = Release(EARLIER_RUNS, EARLIER_RUNS_MECHANISM, NoOpDpEvent(), None, (), (), remark="0", view_events=NOTHING)


def plan(**privacy):
    privacy = {
        "epsilon": 8.0,
        "protect": "release",
        "ctr": {"steps": 4},
        "quantizer": {"steps_per_round": 1},
        **privacy,
    }
    private = privacy["protect"] == "release"
    config = of_people(tiny(seed=[0, 1], privacy=privacy, **({"ctr": {"baselines": []}} if private else {})))
    noise = NOISE if private else {stage: value for stage, value in NOISE.items() if stage != "ctr"}
    if config.private_evaluation:
        noise = {**noise, "evaluation": 20.0}
    return SpendingPlan.of(config, "m0", SIZES, noise)


def hashed(text):
    return hashlib.sha256(text.encode()).hexdigest()


class Written:
    """A ledger of a plan, release by release; tests leave out, add and change."""

    def __init__(self, path, plan, *, earlier=True):
        self.plan, self.ledger, self.keys = plan, Ledger(path), 0
        self.ledger.open({})
        if earlier:
            self.note(EARLIER)

    def entry(self, release, **changed):
        seeded = self.plan.config.privacy.noise_seed is not None
        return replace(release.entry("m0", delta=self.plan.delta, seeded=seeded), **changed)

    def note(self, release, **changed):
        self.ledger.note(self.entry(release, **changed))

    def charge(self, release, *, data=None, key=None, **changed):
        entry = self.entry(release, **changed)
        reads = not isinstance(entry.event, NoOpDpEvent)
        self.keys += 1
        drawn = hashed(f"key {self.keys}") if key is None else key
        data = (ROWS if reads else "") if data is None else data
        return self.ledger.charge(entry, data=data, key=drawn if entry.coordinates else "")

    def seal(self, charge):
        self.ledger.seal(charge, hashed("result"), hashed("meter") if charge.entry.coordinates else "")

    def add(self, release, **changed):
        if is_note(release):
            self.note(release, **changed)
        else:
            self.seal(self.charge(release, **changed))

    def findings(self, left_out=(), *, other_code=False):
        content = read_ledger(self.ledger.path)
        found = spending_findings(
            self.ledger.path, content, self.plan, data=ROWS, left_out=left_out, other_code=other_code
        )
        assert all(finding.where.startswith(str(self.ledger.path)) for finding in found)
        return [f"{finding.where.rsplit('/', 1)[-1]}: {finding.what}" for finding in found]


@pytest.fixture
def written(tmp_path):
    return Written(tmp_path / "m0.jsonl", plan())


def planned(written):
    return list(written.plan.releases())


@pytest.mark.parametrize(
    "privacy",
    [
        {},
        {"user_codes_epsilon": 2.0},
        {"shares": {"evaluation": 0.1}},
        {"protect": "federation"},
        {"noise_seed": 3},
    ],
)
def test_the_ledger_of_the_plan_is_right(tmp_path, privacy):
    written = Written(tmp_path / "m0.jsonl", plan(**privacy))
    for release in planned(written):
        written.add(release)
    assert written.findings() == []
    content = read_ledger(written.ledger.path)
    lines = list(entry_lines(content))
    assert [content.kinds[line.number - 1] for line in lines] == [
        "note" if line.charge is None else "charge" for line in lines
    ]


def test_noisy_test_figures_come_last_and_read_every_model():
    """Their noise: two histograms for each of two seeds, and the meter."""
    found = list(plan(shares={"evaluation": 0.1}).releases())[-1]
    assert found.stage == "evaluation"
    assert found.event == GaussianDpEvent(20.0)
    assert found.depends_on == ("counts", "ctr/0", "ctr/1")
    assert found.audience == ("consumer", "release")
    assert found.coordinates == 2 * 2 * 34 + 1500
    views = observed_by_view(plan(shares={"evaluation": 0.1}))
    assert views["consumer"] == views["release"]
    assert len(views["release"].events) == len(views["market"].events) + 2  # the models, and this


def test_a_run_without_privacy_has_a_plan_too(tmp_path):
    config = of_people(tiny(seed=[0, 1]))
    written = Written(tmp_path / "m0.jsonl", SpendingPlan.of(config, "m0", SIZES))
    for release in planned(written):
        written.add(release)
    assert written.findings() == []
    assert rounds_of(written.plan) == [(f"quantizer/{seed}", round) for seed in (0, 1) for round in range(3)]


def test_seals_may_come_later_and_notes_of_earlier_runs_anywhere(written):
    charges = []
    for release in planned(written):
        charges.append(written.charge(release))
    spent = {**NOTHING, "market": noted_event([0.4, 0.3]), "release": noted_event([math.inf, 0.3])}
    written.note(EARLIER, remark="2", view_events=spent, extra_delta=noted_failures([1.234567e-6]))
    for charge in reversed(charges):
        written.seal(charge)
    assert written.findings() == []


@pytest.mark.parametrize("missing", range(13))
def test_whatever_is_missing_is_named(written, missing):
    releases = planned(written)
    assert len(releases) == 14
    for index, release in enumerate(releases):
        if index != missing:
            written.add(release)
    (found,) = written.findings()
    gone = releases[missing]
    at = gone.stage if gone.round is None else f"{gone.stage}, round {gone.round}"
    assert found == f"m0.jsonl: {at} is missing: planned, and neither charged nor noted"


def test_the_end_of_a_run_is_missed_too(written):
    for release in planned(written)[:-2]:
        written.add(release)
    assert [found.split(" is missing")[0] for found in written.findings()] == ["m0.jsonl: ctr/0", "m0.jsonl: ctr/1"]


def changes(entry):
    """Another value for each field of an entry that the plan fixes."""
    return {
        "market": "m1",
        "event": NoOpDpEvent() if not isinstance(entry.event, NoOpDpEvent) else GaussianDpEvent(1.0),
        "mechanism": "another",
        "audience": ("nobody",),
        "depends_on": ("nothing",),
        "sensitivity": 0.123,
        "delta": 0.02,
        "seeded": not entry.seeded,
        "unit": "interaction",
        "remark": "another",
        "view_events": {"release": NoOpDpEvent()},
        "coordinates": entry.coordinates + 1,
        "extra_delta": 1e-9,
    }


@pytest.mark.parametrize("position", [0, 1, 2, 8, 9, 12])
def test_any_field_of_an_entry_that_is_not_as_planned_is_named(tmp_path, position):
    names = changes(Written(tmp_path / "x.jsonl", plan()).entry(EARLIER))
    for name in names:
        written = Written(tmp_path / f"{name}.jsonl", plan())
        for index, release in enumerate(planned(written)):
            changed = changes(written.entry(release)) if index == position else {}
            written.add(release, **({name: changed[name]} if changed else {}))
        found = "\n".join(written.findings())
        assert f"{name} is" in found
        assert f"{name}.jsonl:{3 + 2 * position}: " in found


@pytest.mark.parametrize("scale", [10.0, 0.5])
def test_another_noise_multiplier_is_found_and_too_little_noise_is_over_budget(written, scale):
    for release in planned(written):
        scaled = release.stage == "counts"
        written.add(release, **({"event": GaussianDpEvent(scale * NOISE["counts"])} if scaled else {}))
    assert any("event is" in found for found in written.findings())


def test_what_spends_more_than_the_budget_is_found_whatever_the_plan_says(tmp_path):
    written = Written(tmp_path / "m0.jsonl", replace(plan(), noise={**NOISE, "counts": 0.4}))
    for release in planned(written):
        written.add(release)
    (found,) = written.findings()
    assert "spends epsilon" in found
    assert "of 8" in found


def test_what_is_not_planned_or_comes_again_is_found(written):
    releases = planned(written)
    for release in releases:
        written.add(release)
    written.add(releases[0])
    written.add(replace(releases[0], stage="counts/2"))
    written.add(replace(releases[2], round=3))
    found = written.findings()
    assert "counts again, or out of order" in found[0]
    assert "counts/2 is nothing that this configuration releases" in found[1]
    assert "quantizer/0, round 3 is nothing" in found[2]


def test_another_order_is_found(written):
    releases = planned(written)
    for release in [releases[1], releases[0], *releases[2:]]:
        written.add(release)
    found = written.findings()
    assert any("counts is missing" in one for one in found)
    assert any("counts again, or out of order" in one for one in found)


def test_what_should_be_charged_is_not_noted_and_the_reverse(tmp_path):
    written = Written(tmp_path / "m0.jsonl", plan(protect="federation"))
    for release in planned(written):
        if release.stage == "counts":
            written.note(release)
        elif release.stage == "refinement":
            written.seal(written.charge(release))
        else:
            written.add(release)
    found = written.findings()
    assert any("counts is noted, against the plan" in one for one in found)
    assert any("refinement is charged, against the plan" in one for one in found)


# further attempts of a round, and rounds without this market


def with_round(written, first, *more):
    """All releases; round 1 of the first repetition in these attempts."""
    for release in planned(written):
        if (release.stage, release.round) == ("quantizer/0", 1):
            written.add(replace(release, attempt=first))
            for attempt in more:
                written.add(again(replace(release, attempt=attempt), attempt))
        else:
            written.add(release)


@pytest.mark.parametrize("attempts", [(0,), (1,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_further_attempts_of_a_round_spend_nothing_and_are_right(written, attempts):
    with_round(written, *attempts)
    assert written.findings() == []


@pytest.mark.parametrize("attempts", [(3,), (0, 0), (1, 0), (0, 3), (-1,)])
def test_attempts_out_of_bounds_or_backwards_are_found(written, attempts):
    with_round(written, *attempts)
    assert any("quantizer/0, round 1: attempt" in found for found in written.findings())


def test_a_second_attempt_that_is_charged_as_training_is_found(written):
    """It would be another computation on the same rows."""
    for release in planned(written):
        written.add(release)
        if (release.stage, release.round) == ("quantizer/0", 1):
            written.add(replace(release, attempt=1))
    assert any("event is" in found for found in written.findings())


def test_a_first_attempt_that_spends_nothing_is_found(written):
    for release in planned(written):
        free = (release.stage, release.round) == ("quantizer/0", 1)
        written.add(again(release, 0) if free else release)
    assert any("quantizer/0, round 1: event is" in found for found in written.findings())


def test_a_round_that_went_on_without_the_market_may_be_missing_or_unsealed_and_no_other(written, tmp_path):
    other = Written(tmp_path / "other.jsonl", written.plan)
    for release in planned(written):
        if (release.stage, release.round) != ("quantizer/0", 1):
            written.add(release)
            other.add(release)
        else:
            other.charge(release)
    assert len(written.findings()) == len(other.findings()) == 1
    assert "is charged, and never sealed" in other.findings()[0]
    assert written.findings([("quantizer/0", 1)]) == other.findings([("quantizer/0", 1)]) == []
    assert len(written.findings([("quantizer/0", 2)])) == len(other.findings([("quantizer/1", 1)])) == 1


# transactions


def test_every_charge_names_its_rows_and_a_key_of_its_own(written):
    releases = planned(written)
    for release in releases[:2]:
        written.add(release, key=hashed("the same"))
    written.add(releases[2], data="0" * 64)
    written.add(releases[3], key="")
    for release in releases[4:]:
        written.add(release, data=ROWS)  # post-processing reads none
    found = written.findings()
    assert found[0] == "m0.jsonl:5: embedding: draws the same noise as line 3"
    assert "quantizer/0, round 0: reads other rows than the run was opened on" in found[1]
    assert "quantizer/0, round 1: has no key of randomness" in found[2]
    assert "quantizer-model/0: reads other rows" in found[3]
    assert len(found) == 7


def test_a_seal_names_spare_values_where_noise_was_drawn_and_nowhere_else(written):
    for release in planned(written):
        charge = written.charge(release)
        written.ledger.seal(charge, hashed("result"), "" if charge.entry.coordinates else hashed("meter"))
    found = written.findings()
    assert len(found) == len(planned(written))
    assert sum("names no spare values" in one for one in found) == 10
    assert sum("names spare values" in one for one in found) == 4


# notes of earlier runs


def test_a_ledger_says_what_earlier_runs_spent(tmp_path):
    written = Written(tmp_path / "m0.jsonl", plan(), earlier=False)
    for release in planned(written):
        written.add(release)
    assert written.findings() == ["m0.jsonl: no line says what earlier runs on the same data spent"]


@pytest.mark.parametrize(
    "changed",
    [
        {"event": GaussianDpEvent(1.0)},
        {"remark": "-1"},
        {"remark": None},
        {"audience": ("release",)},
        {"delta": 0.5},
        {"view_events": {"somebody": NoOpDpEvent()}},
        {"coordinates": -5},
        {"extra_delta": -1e-9},
        {"round": 1},
    ],
)
def test_a_note_of_earlier_runs_holds_nothing_else(written, changed):
    written.note(EARLIER, **changed)
    for release in planned(written):
        written.add(release)
    assert "m0.jsonl:3: is no note of earlier runs" in written.findings()


@pytest.mark.parametrize(
    "changed",
    [
        {"coordinates": 10_000},
        {"extra_delta": 1.23456e-6},
        {"view_events": {**NOTHING, "market": ComposedDpEvent([GaussianDpEvent(1.23456)])}},
        {"view_events": {**NOTHING, "market": ComposedDpEvent([GaussianDpEvent(1.2), GaussianDpEvent(1.2)])}},
        {"view_events": {**NOTHING, "market": GaussianDpEvent(1.2)}},
        {"view_events": {"market": ComposedDpEvent([GaussianDpEvent(1.2)])}},
        {"view_events": {}},
    ],
)
def test_a_note_of_earlier_runs_has_few_digits_for_each_view(written, changed):
    written.note(EARLIER, remark="2", **changed)
    for release in planned(written):
        written.add(release)
    assert written.findings() == ["m0.jsonl:3: is no note of earlier runs"]


def test_earlier_versions_list_the_steps_of_runs_before(written):
    """Of another version alone: such a list has room for much that is no number of a plan."""
    spent = ComposedDpEvent([ComposedDpEvent([GaussianDpEvent(1.23456)]), NonPrivateDpEvent()])
    listed = {"remark": "2", "view_events": {"market": spent}, "coordinates": 5, "extra_delta": 1e-9}
    written.note(replace(EARLIER, mechanism=LISTED_EARLIER_RUNS), **listed)
    for release in planned(written):
        written.add(release)
    assert written.findings(other_code=True) == []
    assert written.findings() == ["m0.jsonl:3: is no note of earlier runs"]


@pytest.fixture
def replayed(tmp_path):
    """A ledger of a run that an auditor may replay, and the auditor's coin for its first line."""
    auditor = Identity.generate("auditor")
    config = plan().config.model_copy(update={"audit": AuditConfig(replay=CardConfig(**asdict(auditor.card)))})
    written = Written(tmp_path / "m0.jsonl", replace(plan(), config=config), earlier=False)
    run = str(written.ledger.opening.get("run"))
    return written, coin_note(auditor.sign(coin_text("m0", run, written.ledger.opening_hash)).hex())


def test_the_auditors_coin_comes_before_anything_is_charged(replayed):
    written, coin = replayed
    written.note(coin)
    written.note(EARLIER)
    for release in planned(written):
        written.add(release)
    assert written.findings() == []
    written.note(coin)
    assert written.findings() == [
        f"m0.jsonl:{written.ledger.length}: auditors-coin is nothing that this configuration releases"
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"remark": "00" * 64}, "is no coin of the auditor whom the configuration names, for this first line"),
        ({"remark": None}, "is no coin of the auditor whom the configuration names, for this first line"),
        ({"mechanism": "rows"}, 'mechanism is "rows", planned is'),
    ],
)
def test_another_coin_or_more_than_a_coin_is_found(replayed, changed, said):
    written, coin = replayed
    written.note(coin, **changed)
    written.note(EARLIER)
    for release in planned(written):
        written.add(release)
    (found,) = written.findings()
    assert said in found
    assert found.startswith("m0.jsonl:2: ")


def test_a_coin_that_comes_late_or_not_at_all_is_found(replayed):
    written, coin = replayed
    written.note(EARLIER)
    first, *others = planned(written)
    written.add(first)
    for release in others:
        written.add(release)
    assert written.findings() == ["m0.jsonl: no line holds the coin of the auditor who is to replay it"]
    written.note(coin)
    assert written.findings() == [f"m0.jsonl:{written.ledger.length}: is a coin where none is tossed any more"]
