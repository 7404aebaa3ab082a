"""One person in several markets, and noise that is one for all of them: they move it once with each market's rows.

The attack is the report's arithmetic: it composed what markets state of one person as if each had noise of its own.
"""

import json
import math

import dp_accounting
import numpy as np
import pytest
import torch

from experiments.compliance.build import _across_markets
from experiments.compliance.document import Declarations
from experiments.compliance.judgement import ONE_USER, PERSON, document_verdict, figures_text, not_guaranteed
from experiments.compliance.questions import answer_questions
from experiments.compliance.signing import page, sign
from experiments.exports.bom import bill_of_materials
from experiments.exports.registry import RegistryError, registry_record, registry_text
from fedmm_secure.federation.account import SoFar, enter_account
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import CLAIMS, QUANTIZER, SEVERAL_MARKETS, SHARED_COUNTS, SHARED_GRAM, has_sums
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.account_file import AccountError
from privacy.accounting.guarantees import coarsely, composed_epsilon
from privacy.accounting.ledger import Ledger
from privacy.accounting.places import recorded_head, state_folder
from privacy.accounting.spendings import spent_to_data
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer, SharedGroup
from privacy.mechanisms.randomness import LEVELS, NoiseSource
from tests.adversary.test_compliance import document
from tests.conftest import tiny
from tests.fedmm_secure.federation.test_shared_catalogue import DATA
from tests.noise import silent
from tests.people import of_people
from tests.privacy.mechanisms.test_dp_sgd import Chosen
from tests.released import BASELINES, PRIVATE, RELEASE

SHARES = {"counts": 0.01, "embedding": 0.01, "ctr": 0.01}


def distributed(rate=1.0):
    quantizer = {"steps_per_round": 1, "sampling_rate": rate}
    privacy = {**RELEASE, "distributed_noise": True, "shares": {"quantizer": 1.0, **SHARES}, "quantizer": quantizer}
    return of_people(tiny(privacy=privacy, embedding=PRIVATE, ctr=BASELINES, aggregation={"kind": "masked-ckks"}))


def summed():
    shares = {"shared_counts": 1.0, "shared_gram": 1.0, "counts": 0.01, "quantizer": 0.01, "ctr": 0.01}
    privacy = {**RELEASE, "contribution": {"reference_date": "2022-01-01"}, "shares": shares}
    sections = {"aggregation": {"kind": "masked-ckks"}, "ctr": {"baselines": ["popularity"]}, "privacy": privacy}
    return tiny(data=DATA, embedding={**PRIVATE, "shared_items": 25}, **sections)


def enter(account, folder, run, config, markets, names=None):
    """The plans of a run, entered; and as much of its directory as says which run it is."""
    sizes = market_sizes(config, sorted(markets), markets)
    plans = {name: SpendingPlan.of(config, name, sizes) for name in names or markets}
    for name, plan in plans.items():
        enter_account(account, folder, run, plan, markets[name], SoFar())
        Ledger(folder / "ledger" / f"{name}.jsonl").open({"run": run, "market": name})
    return plans


def across(account, folder, config, plans):
    said = Declarations(signer=None, trusted=[], sole_run=False, max_epsilon=15.0, max_delta=None)
    statements = {name: {"market": {"delta": plan.delta}} for name, plan in plans.items()}
    return _across_markets(account, config, folder, statements, CLAIMS["release"], said)


def as_if_each_market_had_its_own(account, plans, run, view="release"):
    """What the report composed."""
    found = [one for name in plans for one in account.spendings_of(run, name)]
    delta = next(iter(plans.values())).delta
    return composed_epsilon([one.events[view] for one in found], found, delta, coarsely)


def without_markets(spending):
    return {key: value for key, value in spent_to_data(spending).items() if key != "markets"}


def sums_alone(multipliers, k, delta):
    """ε that whoever sees the sums alone can prove of a person in k markets, by the exact Gaussian mechanism."""
    mu = k * math.sqrt(sum(1.0 / noise**2 for noise in multipliers))
    return dp_accounting.get_epsilon_gaussian(1.0 / mu, delta)


def test_rows_in_three_markets_move_the_one_noise_three_times():
    noise, markets, colluding = 0.731, 3, 1
    step = SharedGroup.step_for(noise, 1.0, markets - colluding)
    chosen = Chosen(2)
    group = SharedGroup(chosen.parameters[1], step, markets - colluding)
    with silent():
        trainer = DPSGDTrainer(chosen, torch.optim.SGD(chosen.parameters, lr=0.0), DPSGD(noise, 1.0, 1.0), 80, group)
        gradient = torch.tensor([[0.0, 0.0, 5.0, 0.0]])
        part = trainer.steps(gradient, 1, NoiseSource(bytes(32), seeded=True), spare=0).shared[0]
    drawn = scale(LEVELS) * math.sqrt(markets - colluding)
    for k in (1, 3):
        assert drawn / np.linalg.norm(k * part.astype(float)) == pytest.approx(noise / k, rel=1e-3)


def test_distributed_noise_is_one_for_all_markets(tiny_markets, tmp_path):
    config, account = distributed(), PrivacyAccount(tmp_path / "account")
    plans = enter(account, tmp_path / "run", "a" * 32, config, tiny_markets)
    truth = sums_alone([plans["m0"].noise[QUANTIZER]] * config.federation.rounds, 3, plans["m0"].delta)
    assert as_if_each_market_had_its_own(account, plans, "a" * 32) < 0.5 * truth  # the attack works on what it was
    found = across(account, tmp_path / "run", config, plans)
    assert found.problem is None
    assert truth < found.epsilon["release"] < 1.05 * truth
    assert found.epsilon.keys() == {"market", "collusion", "consumer", "release"}
    assert SEVERAL_MARKETS in plans["m0"].round(0, 0).remark


def test_so_it_is_where_users_are_sampled(tiny_markets, tmp_path):
    config, account = distributed(rate=0.3), PrivacyAccount(tmp_path / "account")
    plans = enter(account, tmp_path / "run", "a" * 32, config, tiny_markets)
    found = across(account, tmp_path / "run", config, plans).epsilon["release"]
    assert found > 1.05 * as_if_each_market_had_its_own(account, plans, "a" * 32)


def test_one_market_s_directory_does_not_say_what_others_spent(tiny_markets, tmp_path):
    config, account = distributed(), PrivacyAccount(tmp_path / "account")
    plans = enter(account, tmp_path / "run", "a" * 32, config, tiny_markets, ["m0"])
    assert as_if_each_market_had_its_own(account, plans, "a" * 32) < 8.0  # "over all markets", as one was looked at
    found = across(account, tmp_path / "run", config, plans)
    assert found.epsilon["release"] is None
    assert found.problem == "run aaaaaaaa is of 3 markets, and what it spent is known of 1"
    base = document(run={"shared_users": "composed"})
    verdict = document_verdict(base.model_copy(update={"across_markets": found}))
    assert "what is learnt of them is not known: run aaaaaaaa is of 3 markets" in "".join(verdict.reasons)


def test_a_report_names_no_folder_of_who_reads_the_account(tiny_markets, tmp_path):
    """Why an account cannot be read goes into a document that is handed out, and the folder has its reader's name."""
    config, own = distributed(), PrivacyAccount(tmp_path / "home" / "alice" / "account")
    plans = enter(PrivacyAccount(tmp_path / "account"), tmp_path / "run", "a" * 32, config, tiny_markets)
    own.fingerprint([b"row"])
    own.path.write_text("{}\n")
    with pytest.raises(AccountError) as refused:
        own.spendings_of("a" * 32, "m0")
    assert "alice" in str(refused.value)  # the attack works on what it was: the text as it stands
    for account in (own, PrivacyAccount(tmp_path / "account", [own])):
        problem = across(account, tmp_path / "run", config, plans).problem
        assert "account:1: not a line" in problem
        assert str(tmp_path) not in problem
        assert "alice" not in problem
    recorded_head(own.identity).path.write_text("")
    assert "alice" not in across(own, tmp_path / "run", config, plans).problem
    assert str(state_folder()) not in across(own, tmp_path / "run", config, plans).problem


def test_sums_of_an_earlier_run_have_one_noise_too(tiny_markets, tmp_path):
    earlier, account = summed(), PrivacyAccount(tmp_path / "account")
    plans = enter(account, tmp_path / "one", "a" * 32, earlier, tiny_markets)
    plain = of_people(tiny(privacy={**RELEASE, "epsilon": 1.0}, embedding=PRIVATE, ctr=BASELINES))
    enter(account, tmp_path / "other", "b" * 32, plain, tiny_markets)
    sums = [plans["m0"].noise[stage] for stage in (SHARED_COUNTS, SHARED_GRAM)]
    truth = sums_alone(sums, 3, plans["m0"].delta)
    assert as_if_each_market_had_its_own(account, plans, "b" * 32) < truth  # the attack works on what it was
    assert across(account, tmp_path / "other", plain, plans).epsilon["release"] > truth


def test_a_line_that_does_not_say_whose_noise_it_is_gives_no_number(tiny_markets, tmp_path):
    config, account = distributed(), PrivacyAccount(tmp_path / "account")
    with pytest.MonkeyPatch.context() as patch:  # as an earlier version wrote it
        patch.setattr("privacy.accounting.account.spent_to_data", without_markets)
        plans = enter(account, tmp_path / "run", "a" * 32, config, tiny_markets)
    found = across(account, tmp_path / "run", config, plans)
    assert found.epsilon["release"] is None
    assert "earlier version" in found.problem


def answered(report):
    return report.model_copy(update={"questions": answer_questions(report)})


def everything_that_prints_figures(report):
    """By name, what is said of a person: answers, bill of materials, registry record, page."""
    report = answered(report)
    html = page(sign(report, None)).split('<script type="application/json"')[0]
    topics = ("privacy parameters", "(c) risks to data subjects", "identifiability assessment")
    said = {topic: next(one.answer for one in report.questions if one.topic == topic) for topic in topics}
    said |= {"bom": json.dumps(bill_of_materials(report), ensure_ascii=False), "page": html}
    if report.across_markets.epsilon["release"] is not None:
        said["registry"] = registry_text(registry_record(report))
    return said


def test_whatever_prints_a_figure_prints_that_of_the_person_too():
    """Answers and the bill of materials said 7.99 "for a person" whom the same report had composed to 17.9."""
    composed = document(epsilon=7.99, run={"shared_users": "composed"}, across=17.913)
    for where, text in everything_that_prints_figures(composed).items():
        assert "17.9" in text, where
        assert PERSON.lower() in text.lower(), where
    unit = next(one for one in answer_questions(composed) if one.topic == "unit of privacy").answer
    assert unit.lower().startswith(PERSON)
    assert registry_record(answered(composed)).deployment.privacy_loss.privacy_parameters.epsilon == 17.913
    of_users = document(epsilon=7.99, across=17.913)
    assert registry_record(answered(of_users)).deployment.privacy_loss.privacy_unit == ONE_USER
    assert "17.9" not in figures_text(of_users)  # the positive control: where nobody is in several, it is not claimed


def test_what_is_not_known_of_a_person_is_said_and_no_record_is_made():
    report = document(epsilon=7.99, run={"shared_users": "composed"}, across=None)
    across = report.across_markets.model_copy(update={"problem": "run 1 is of 3 markets"})
    report = report.model_copy(update={"across_markets": across})
    for where, text in everything_that_prints_figures(report).items():
        assert "not known" in text, where
    with pytest.raises(RegistryError, match="a person, with all rows in all markets: not known"):
        registry_record(answered(report))


def test_the_terminal_and_the_page_say_whose_unit_it_is():
    assert has_sums(distributed())
    assert has_sums(summed())
    assert not has_sums(of_people(tiny(privacy=RELEASE, embedding=PRIVATE)))
    assert SEVERAL_MARKETS in not_guaranteed(document(run={"one_noise": True}))
    assert SEVERAL_MARKETS not in not_guaranteed(document())
