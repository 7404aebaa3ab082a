"""Events whose losses fill memory or take hours to compose: whoever writes a ledger chooses them, and needs no key."""

import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting.dp_event import GaussianDpEvent, NoOpDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld.pld_pmf import SparsePLDPmf
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType

from experiments.verification import effort, examine_run, spending
from fedmm_secure.config.choices import MAX_STEPS
from fedmm_secure.errors import ConfigError
from privacy.accounting import ledger_check, losses, random_variables
from privacy.accounting.accountants import MOST_STEPS, finely, group_pld_deltas, once_each, pld_epsilon, prv_epsilon
from privacy.accounting.events import event_from_data, event_problem, gaussian_steps
from privacy.accounting.guarantees import LISTED_EARLIER_RUNS, coarsely
from privacy.accounting.ledger import CHARGE, Charge, Entry, LedgerContent, depended_on
from privacy.accounting.losses import COARSE, FINE, GaussianLosses, beyond_reach, composed_losses
from tests.conftest import tiny
from tests.forgery import Forgery, Line

ENTRY = Entry("m0", "s", NoOpDpEvent(), "", (), (), None, 1e-3, False)
GIGABYTE_OF_NUMBERS = 2**27

ONE = {"kind": "self-composed", "count": 60, "event": {"kind": "gaussian", "noise_multiplier": 0.01}}
MANY = {
    "kind": "composed",
    "events": [
        {"kind": "poisson-sampled", "sampling_rate": 0.5, "event": {"kind": "gaussian", "noise_multiplier": 0.01 + at}}
        for at in (step * 1e-4 for step in range(32))
    ],
}
SMALL_STEPS = {"kind": "self-composed", "count": 10**8, "event": {"kind": "gaussian", "noise_multiplier": 1e4}}


# each that is another has all of a mesh of millions of points; as a note they are ten kilobytes
MANY_SMALL = {(50 + step * 1e-3, 0.01): 5000 for step in range(100)}


def grid(noise_multiplier, interval=COARSE):
    """Points of the losses of a Gaussian, as they were laid out whatever their number."""
    bounds = GaussianLosses(noise_multiplier, adjacency_type=AdjacencyType.REMOVE).connect_dots_bounds()
    return (bounds.epsilon_upper - bounds.epsilon_lower) / interval


@pytest.mark.parametrize("data", [ONE, MANY, SMALL_STEPS], ids=["one", "many", "small steps"])
def test_a_note_of_earlier_runs_is_answered(released_copy, data, monkeypatch):
    """It has the form of a note of an earlier version: what is asked for is within the bounds of single events."""
    monkeypatch.setattr("experiments.verification.run.same_code", lambda evidence: False)
    assert event_problem(event_from_data(data)) is None
    run = Forgery(released_copy)
    for entry in run.entries("m0"):
        if entry["stage"] == "earlier-runs":
            run_of = data if data["kind"] == "composed" else {"kind": "composed", "events": [data]}
            noted = {"kind": "composed", "events": [run_of]}
            entry["view_events"] = dict.fromkeys(("market", "consumer", "release"), noted)
            entry |= {"remark": "1", "mechanism": LISTED_EARLIER_RUNS}
    run.finish(owner=False)
    found = examine_run(released_copy).checks
    assert {name for name, findings in found.items() if findings} == {"epsilon", "closing line"}


def test_it_was_not():
    assert grid(0.01 / math.sqrt(60)) > 4 * GIGABYTE_OF_NUMBERS
    assert (
        len(MANY["events"]) * 2 * grid(0.01) > 4 * GIGABYTE_OF_NUMBERS
    )  # each to be integrated: half a minute a piece


def charged_beside(run, entries, market="m0"):
    """Charges without seals, before the last of the ledger."""
    lines = run.ledgers[market]
    like = next(line for line in lines if line.kind == CHARGE and line.stage == "ctr/0")
    at = lines.index(like)
    more = [Line(CHARGE, {**like.body, "entry": {**like.body["entry"], **entry}}) for entry in entries]
    lines[at:at] = more
    run.finish(owner=False)


def charge_of(number, noise):
    event = {"kind": "gaussian", "noise_multiplier": noise}
    return {"stage": f"s{number}", "event": event, "view_events": {}, "depends_on": [], "audience": ["release"]}


def test_each_stage_is_composed_by_itself_so_there_are_few(released_copy, monkeypatch):
    """300 of them are 250 kilobytes of a ledger, and took two minutes."""
    run, asked = Forgery(released_copy), []
    charged_beside(run, [charge_of(at, 2 + at * 1e-3) for at in range(300)])
    monkeypatch.setattr(ledger_check, "prv_epsilon", lambda events, delta: asked.append(events) or 1.0)
    found = examine_run(released_copy).checks
    assert any("stages, where a run has" in one.what for one in found["epsilon"])
    assert len(asked) < 100  # of the other markets
    asked.clear()
    monkeypatch.setattr(ledger_check, "_MOST_STAGES", 1000)
    monkeypatch.setattr(ledger_check, "pld_epsilon", lambda events, delta: 1.0)
    examine_run(released_copy)
    assert len(asked) > 300  # as it was: two accountants for each


def test_releases_together_are_within_reach(released_copy):
    """Stages that are few, and each within reach: every one of them takes both accountants minutes."""
    run = Forgery(released_copy)
    charged_beside(run, [charge_of(at, 0.11 + at * 1e-3) for at in range(20)])
    assert any("more than any plan spends" in one.what for one in examine_run(released_copy).checks["epsilon"])


def by_passes(entries, visible):
    """What is depended on, as it was found: by going through all entries again, for each that was found."""
    wanted, needed, passes = {entry.stage for entry in visible}, set(map(id, visible)), 0
    grew = True
    while grew:
        passes += 1
        stages = {stage for entry in entries if id(entry) in needed for stage in entry.depends_on}
        grew = not stages <= wanted
        wanted |= stages
        needed |= {id(entry) for entry in entries if entry.stage in stages}
    return [entry for entry in entries if id(entry) in needed], passes


def test_what_is_built_upon_what_is_found_in_one_pass(released_run):
    plan = examine_run(released_run).plans["m0"]
    entries = [release.entry("m0", delta=plan.delta, seeded=False) for release in plan.releases()]
    for view in ("market", "release", "consumer", "profile", "server"):
        visible = [entry for entry in entries if view in entry.audience]
        assert depended_on(entries, visible) == by_passes(entries, visible)[0]
    chain = [replace(entries[0], stage=f"s{at}", depends_on=(f"s{at + 1}",)) for at in range(200)]
    found, passes = by_passes(chain, chain[:1])
    assert depended_on(chain, chain[:1]) == found == chain
    assert passes == len(chain) + 1  # a ledger of 64 MB has a hundred thousand lines
    asked = []

    class Watched:
        def __init__(self, at):
            self.stage, self.at = f"s{at}", at

        @property
        def depends_on(self):
            asked.append(self.at)
            return (f"s{self.at + 1}",)

    long = [Watched(at) for at in range(20_000)]
    assert len(depended_on(long, long[:1])) == len(long)
    assert len(asked) <= 2 * len(long)
    asked.clear()
    by_passes(long[:200], long[:1])
    assert len(asked) > 200 * 200 / 2  # as it was


def test_charges_that_were_made_again_are_looked_up(monkeypatch):
    """Each without a seal was compared with all of later courses."""
    half, plain, of, compared = 10_000, replace(ENTRY, stage="s"), spending._of, []
    monkeypatch.setattr(spending, "_of", lambda entry: compared.append(entry) or of(entry))
    numbers = [*range(half), *range(half + 1, 2 * half + 1)]  # a note of earlier runs is between them
    charges = tuple(Charge(number, replace(plain, stage=f"s{number}"), "", "") for number in numbers)
    entries = [charge.entry for charge in charges]
    entries.insert(half, replace(plain, stage="earlier-runs"))
    kinds = ("charge",) * half + ("note",) + ("charge",) * half
    content = LedgerContent({}, tuple(entries), charges, {}, None, kinds, "", "")
    assert spending.given_up_charges(content) == frozenset()
    assert len(compared) <= 2 * len(charges)  # each with each: a hundred million


def test_a_charge_is_answered(released_copy):
    """Both accountants are asked about charges, PRV among them, whose mesh is the finer the more steps there are."""
    run = Forgery(released_copy)
    for entry, event in zip(run.entries("m0")[-2:], (SMALL_STEPS, ONE), strict=True):
        entry["event"] = event
    run.finish(owner=False)
    found = examine_run(released_copy).checks
    assert {"plan", "epsilon", "closing line"} <= {name for name, findings in found.items() if findings}


@pytest.mark.parametrize(
    ("noise", "rate", "count"), [(0.01, 1.0, 60), (0.01, 0.5, 1), (0.02, 1e-30, 1), (1.0, 0.5, 10**6)]
)
def test_beyond_reach_is_infinite(noise, rate, count):
    event = SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), count)
    assert {accountant([event], 1e-5) for accountant in (pld_epsilon, coarsely, finely, prv_epsilon)} == {math.inf}
    assert group_pld_deltas(once_each(gaussian_steps(event)), np.array([1.0]), interval=COARSE).tolist() == [1.0]


def test_a_finer_grid_reaches_less_far():
    steps = {(0.05, 0.5, 1): 1}
    assert not beyond_reach(steps, COARSE)
    assert beyond_reach(steps, FINE)


def test_distinct_steps_are_counted():
    steps = {(1e5 + at, 0.1, 1): 1 for at in range(2001)}
    assert beyond_reach(steps, COARSE)
    assert not beyond_reach(dict(list(steps.items())[1:]), COARSE)


def test_what_is_planned_is_within_reach():
    """Steps of DP-SGD are as many as PRV is asked of, and the largest ε that discrete noise admits is far below."""
    assert MAX_STEPS <= MOST_STEPS
    event = GaussianDpEvent(1 / 14)  # μ of 14: an ε of 120 and more
    assert 120 < pld_epsilon([event], 1e-2) < math.inf
    with pytest.raises(ConfigError, match="steps of DP-SGD"):
        tiny(privacy={"epsilon": 8.0, "quantizer": {"steps_per_round": 10_000}}, federation={"rounds": 100})


def test_many_steps_do_not_have_a_fine_mesh_each(monkeypatch):
    """A note that anyone writes: within all bounds of events, and of what is composed."""
    assert not beyond_reach({(*step, 1): count for step, count in MANY_SMALL.items()}, COARSE)
    laid_out = []

    def discretize(loss, domain):
        laid_out.append(int(domain.size))
        raise MemoryError

    monkeypatch.setattr(random_variables, "discretize", discretize)
    assert random_variables.composed_epsilon_of(MANY_SMALL, 1e-5, error=1e-3) == math.inf
    assert laid_out == []
    monkeypatch.setattr(random_variables, "_MOST_NUMBERS", math.inf)  # as it was
    with pytest.raises(MemoryError):
        random_variables.composed_epsilon_of(MANY_SMALL, 1e-5, error=1e-3)
    assert len(MANY_SMALL) * laid_out[0] > 8 * GIGABYTE_OF_NUMBERS


def test_those_that_are_composed_are_not_in_memory_together(monkeypatch):
    held, most = [], []
    laid_out = random_variables.discretize

    def discretize(loss, domain):
        found = laid_out(loss, domain)
        held.append(weakref.ref(found))
        most.append(sum(one() is not None for one in held))
        return found

    monkeypatch.setattr(random_variables, "discretize", discretize)
    steps = dict.fromkeys(list(MANY_SMALL)[:20], 1)
    assert random_variables.composed_epsilon_of(steps, 1e-5, error=0.01) > 0
    assert max(most) == 20
    held.clear()
    most.clear()
    monkeypatch.setattr(random_variables, "_AT_ONCE", 0)
    assert random_variables.composed_epsilon_of(steps, 1e-5, error=0.01) > 0
    assert max(most) <= 2


def small_steps(base):
    """Stages that only a server sees: their ε is small, so that its mesh is the finest that is asked for."""
    for at in range(22):
        step = {"kind": "poisson-sampled", "sampling_rate": 0.01, "event": charge_of(0, base + at * 1e-3)["event"]}
        event = {"kind": "self-composed", "count": 22_000, "event": step}
        yield charge_of(at, 1) | {"event": event, "audience": ["server"]}


def test_charges_of_many_small_steps_are_composed_once(released_copy, monkeypatch):
    """Ten kilobytes of a ledger: 22 stages within reach took PRV a minute and a half for one view of one market."""
    run, asked = Forgery(released_copy), []
    for number, market in enumerate(run.markets):
        charged_beside(run, list(small_steps(500 + number)), market)
    monkeypatch.setattr(ledger_check, "pld_epsilon", lambda events, delta: 1.0)
    monkeypatch.setattr(ledger_check, "prv_epsilon", lambda events, delta: asked.append(len(events)) or math.inf)
    assert any(what.startswith("epsilon: by PLD alone") for what in examine_run(released_copy).unchecked)
    assert asked == []
    monkeypatch.setattr(effort, "MOST_NUMBERS", math.inf)
    examine_run(released_copy)
    assert asked.count(22) == len(run.markets)  # as it was


@pytest.mark.parametrize("times", [1, 2])
def test_no_power_of_a_count_is_computed(monkeypatch, times):
    """A line of a ledger with 10^8 small steps: their losses to that power, as one integer, took more than minutes."""
    powers, honest = [], SparsePLDPmf.self_compose

    def self_compose(losses, count, tail=1e-15):
        powers.append(losses.size**count)
        return honest(losses, count, tail)

    def deltas(count):
        losses._repeated.cache_clear()
        return composed_losses({(500.0, 1e-2, times): count}, COARSE).get_delta_for_epsilon([0.0, 1e-4]).tolist()

    monkeypatch.setattr(SparsePLDPmf, "self_compose", self_compose)
    found = deltas(1000)
    assert powers == []
    monkeypatch.setattr(losses, "_SURELY_DENSE", math.inf)  # as it was
    assert deltas(1000) == found
    assert min(powers) >= 2**1000
