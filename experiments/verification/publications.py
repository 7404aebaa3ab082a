"""What was published, array by array; and that the models and codes that a run leaves are those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from scipy import sparse

from experiments.verification.effort import too_many_codes
from experiments.verification.equality import same_arrays
from experiments.verification.evidence import Evidence, sections
from experiments.verification.messages import sums_of
from experiments.verification.payloads import integers
from experiments.verification.platform import same_libraries, same_machine
from experiments.verification.standardisations import standardisation_findings
from experiments.verification.transcript import Opened
from fedmm_secure.collaborative.dp_svd import ItemCounts
from fedmm_secure.config import Config
from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.data.market import IntArray
from fedmm_secure.data.shared_items import public_positions
from fedmm_secure.federation.shared_catalogue import Totals
from fedmm_secure.federation.transcript import PUBLICATION, SUM
from fedmm_secure.foreign.formats import parse_arrays, parse_table
from fedmm_secure.guarantee.expected_arrays import WORDS, model_arrays
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.publications import Publications
from fedmm_secure.guarantee.published_arrays import PublicationError, read_tensors
from fedmm_secure.guarantee.stages import (
    CATALOGUE,
    COUNTS,
    CTR,
    EMBEDDING,
    HEAD,
    ITEM_CODES,
    MODEL,
    QUANTIZER,
    SHARED_COUNTS,
    SHARED_GRAM,
    SUMMED,
    USER_CODES,
    seed_stage,
)
from fedmm_secure.heads.trees import HeadGrower
from fedmm_secure.quantization.build import initial_model, model_of
from fedmm_secure.quantization.codes import assign_codes
from fedmm_secure.quantization.movement import SharedSteps, move
from fedmm_secure.results.artefacts import CODE_COLUMNS
from fedmm_secure.storage.encoding import array_bytes, arrays_bytes, nested, tensors_bytes
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.ledger import stage_group
from privacy.accounting.ledger_check import Finding
from privacy.arrays import Array
from privacy.foreign import ForeignFileError, read_bytes
from privacy.mechanisms.dp_svd import PrivateFactors, factors_of_gram

_ORDER = (CATALOGUE, COUNTS, EMBEDDING, MODEL, ITEM_CODES, USER_CODES, CTR)
# Codes are a function of published values, computed in single precision: another processor, or another version of the
# libraries, may round a tie otherwise. On a machine of the run's kind, with its code, none may differ.
_CODES_THAT_MAY_DIFFER = 0.01
# Directions that noise alone tells apart turn with the last bit of a rounding, and so does what is made of them.
_SPECTRAL = {"factors", "eigenvalues"}
_TURNED = 1e-8  # of the largest: how far, at most, on another machine


def read_publications(evidence: Evidence) -> tuple[dict[str, Publications], list[Finding]]:
    """By market, what it published, and what is wrong with it."""
    found = {market: Publications(plan) for market, plan in evidence.plans.items()}
    records = [one for one in evidence.shown() if one[1].kind == PUBLICATION and one[1].sender in found]
    findings, differing = list[Finding](), list[Finding]()  # the latter of files that PyTorch writes
    for messages, record in sorted(records, key=lambda one: _rank(stage_group(one[1].stage))):
        problem = found[record.sender].problem(record.stage, messages.content[record.file])
        if problem:
            findings.append(Finding(messages.where(record), problem))
        elif not _as_written(found[record.sender], record.stage, messages.content[record.file]):
            by_torch = stage_group(record.stage) in (MODEL, CTR)
            (differing if by_torch else findings).append(
                Finding(messages.where(record), "holds bytes that its arrays do not need")
            )
    for market, publications in found.items():
        findings += _follows(evidence, market, publications)
        findings += standardisation_findings(evidence, market, publications)
        findings += _found_items(evidence, market, publications)
    if same_libraries(evidence):
        findings += differing
    elif differing:
        evidence.unchecked.append(
            f"{len(differing)} models are written otherwise than the libraries here, of other versions than the "
            "run's, write them: that they hold nothing beside their arrays was not checked"
        )
    return found, findings


def _as_written(publications: Publications, stage: str, data: bytes) -> bool:
    """Whether the bytes are those that the arrays in them are written as."""
    read, group = publications.read[stage], stage_group(stage)
    if group == CATALOGUE:
        return True  # compared when it was read
    if group in (MODEL, CTR):
        return tensors_bytes(nested(read, "network")) == data
    return (array_bytes(read["codes"]) if group == ITEM_CODES else arrays_bytes(read)) == data


def _rank(group: str) -> int:
    return _ORDER.index(group) if group in _ORDER else len(_ORDER)


def _follows(evidence: Evidence, market: str, publications: Publications) -> Iterator[Finding]:
    """Item codes are what the published model makes of the published factors: post-processing, and nothing more."""
    config, read = evidence.config, publications.read
    if EMBEDDING not in read:
        return
    factors = _published_factors(publications)
    if config.data.shared_items:
        yield from _of_the_sums(evidence, market, publications)
    elif "gram" in read[EMBEDDING]:
        yield from _of_the_gram(evidence, market, publications)
    if too_many_codes(evidence, len(factors)):
        evidence.unchecked.append(
            f"market {market}: item codes: not computed again, for they take too many items, codewords or models"
        )
        return
    for seed in config.seed:
        model, codes = read.get(seed_stage(MODEL, seed)), read.get(seed_stage(ITEM_CODES, seed))
        if model is not None and codes is not None:
            again = _codes(config, model, factors)
            differing = float((again != codes["codes"]).any(axis=1).mean())
            what = f"{differing:.2%} of market {market}'s item codes are not what its published model gives"
            if differing > (0 if same_machine(evidence) else _CODES_THAT_MAY_DIFFER):
                yield Finding(f"{evidence.messages.directory} {seed_stage(ITEM_CODES, seed)}", what)
            elif differing:
                evidence.unchecked.append(f"{what} on this machine, which is not of the run's kind")


def _of_the_gram(evidence: Evidence, market: str, publications: Publications) -> Iterator[Finding]:
    """Factors are what the published matrix gives: post-processing, and no digit more."""
    read = publications.read[EMBEDDING]
    rank, noise = read["factors"].shape[1], float(read["gram_noise"])
    found = factors_of_gram(read["gram"], rank, noise, np.zeros((1, 0), np.int64))
    edge = np.array(found.noise_edge)
    wanted = {"factors": found.factors, "eigenvalues": found.eigenvalues, "noise_edge": edge}
    yield from _differing(evidence, f"the published co-occurrence gives for market {market}", wanted, read)


def _differing(
    evidence: Evidence, gives: str, wanted: Mapping[str, Array], read: Mapping[str, Array]
) -> Iterator[Finding]:
    """Arrays that are not what they follow from; on a machine of another kind, last digits are said to be unchecked."""
    wrong = [name for name in wanted if not same_arrays(wanted[name], read[name], exact=True)]
    what = f"{', '.join(wrong)}: not what {gives}"
    if wrong and (same_machine(evidence) or not all(_rounded(name, wanted[name], read[name]) for name in wrong)):
        yield Finding(f"{evidence.messages.directory} {EMBEDDING}", what)
    elif wrong:
        evidence.unchecked.append(f"{what} on this machine, which is not of the run's kind")


def _rounded(name: str, wanted: Array, read: Array) -> bool:
    """Whether an array may be what another machine's rounding makes of the same."""
    return same_arrays(wanted, read, exact=False) or (name in _SPECTRAL and _turned(wanted, read))


def _turned(wanted: Array, read: Array) -> bool:
    """Whether a spectrum is another's but for what rounding may come to."""
    room = _TURNED * float(np.abs(wanted).max(initial=0.0))
    return wanted.shape == read.shape and bool((np.abs(wanted - read) <= room).all())


def _of_the_sums(evidence: Evidence, market: str, publications: Publications) -> Iterator[Finding]:
    """What a market published of the sums over the shared catalogue is what the recorded sums give."""
    read, plan = publications.read, publications.plan
    sums = {
        record.stage: integers(evidence.messages.content[record.file])
        for record in evidence.messages.records
        if record.kind == SUM and record.stage in SUMMED
    }
    if plan.sums is None or COUNTS not in read or {s: len(v) for s, v in sums.items()} != plan.sums.lengths:
        return  # a finding about the rounds
    found = Totals(evidence.config, plan.sums, sums[SHARED_COUNTS], sums[SHARED_GRAM])
    embedding = found.embedding(ItemCounts.from_arrays(dict(read[COUNTS])), read[EMBEDDING]["position"])
    embedding.set_factors(found.factors, sparse.csr_array((0, plan.size.items)))
    gives = f"the recorded sums give for market {market}"
    yield from _differing(evidence, gives, embedding.to_arrays(), read[EMBEDDING])
    yield from _positions(evidence, market, read[EMBEDDING]["position"])


def _positions(evidence: Evidence, market: str, position: IntArray) -> Iterator[Finding]:
    """Where a market's items are in the shared catalogue is as public as both lists: no choice of who publishes it."""
    stated = sections(evidence.metrics, "privacy", "catalogue").get(market, {}).get("sha256")
    wanted = public_positions(evidence.config.data, market, stated, position)
    if wanted is None:
        evidence.unchecked.append(
            f"market {market}: where its items are in the shared catalogue was not checked: files of the owner's list "
            "them, which do not come with the run"
        )
    elif not np.array_equal(wanted, position):
        where = f"{evidence.messages.directory} {EMBEDDING}"
        yield Finding(where, f"position: not where the items of market {market} are in the shared catalogue")


def _found_items(evidence: Evidence, market: str, publications: Publications) -> Iterator[Finding]:
    """A discovered catalogue is the one that the metrics state."""
    stated = sections(evidence.metrics, "privacy", "catalogue").get(market, {}).get("sha256")
    if CATALOGUE in publications.read:
        found = Catalogue("discovered", publications.read[CATALOGUE]["items"])
        if found.sha256 != stated:
            where = f"{evidence.messages.directory} {CATALOGUE}"
            yield Finding(where, f"market {market} discovered other items than its metrics state")


def _published_factors(publications: Publications) -> Array:
    """Item factors as published; nobody's rows are needed for them."""
    read = publications.read[EMBEDDING]
    if publications.plan.config.data.shared_items:
        return read["factors"]
    nothing = np.zeros((0, 0), np.int64)
    factors = PrivateFactors(read["factors"], read["eigenvalues"], float(read["noise_edge"]), nothing)
    nobody = sparse.csr_array((0, publications.plan.size.items))
    return publications.embedding().set_factors(factors, nobody).item_factors_


def _codes(config: Config, state: Mapping[str, Array], factors: Array) -> IntArray:
    return assign_codes(model_of(config, state), np.zeros((0, factors.shape[1])), factors).item


def artefact_findings(evidence: Evidence, published: dict[str, Publications], opened: Opened) -> list[Finding]:
    """Models and codes in the directory are what was published, and follow from the sums of the rounds."""
    findings: list[Finding] = []
    for market, plan in evidence.plans.items():
        for seed in evidence.config.seed:
            findings += _quantizer(evidence, published[market], seed, opened)
            if evidence.config.private_ctr:
                findings += _ctr(evidence, market, seed)
        findings += _head(evidence, market, opened)
        findings += _code_table(evidence, market, plan, published[market])
    return findings


def _quantizer(evidence: Evidence, published: Publications, seed: int, opened: Opened) -> Iterator[Finding]:
    market, stage = published.plan.market, seed_stage(MODEL, seed)
    path = RunDirectory(evidence.directory).quantizer(market, seed)
    if not evidence.config.private_ctr and not path.exists():
        return  # the market's own, which nobody has to show: the last line commits to it
    released = [
        evidence.messages.content[record.file]
        for record in evidence.messages.records
        if (record.kind, record.stage, record.sender) == (PUBLICATION, stage, market)
    ]
    try:
        data = read_bytes(path, below=evidence.directory)
        known = published.read.get(stage) if [data] == released else None  # the same bytes
        state = known or read_tensors(data, model_arrays(evidence.config))
    except ForeignFileError as error:
        yield Finding(str(path), _said(path, error))
        return
    except (PublicationError, OSError, RuntimeError) as error:
        yield Finding(str(path), str(error))
        return
    if released and data != released[0]:
        yield Finding(str(path), f"is not what market {market} published")
    words = _summed_codebook(evidence, published.plan, seed, opened)
    if words is not None and not np.array_equal(words, state[WORDS]):
        yield Finding(str(path), "its global codebook is not what the sums of the rounds make of the public start")


def _summed_codebook(evidence: Evidence, plan: SpendingPlan, seed: int, opened: Opened) -> Array | None:
    """The public start, moved by the sum of every round by the markets' own code; None where a sum is missing."""
    sums = sums_of(evidence.messages, opened, seed_stage(QUANTIZER, seed))
    codewords = initial_model(evidence.config, seed).global_codebook.codewords
    if set(sums) != set(range(evidence.config.federation.rounds)):
        return None
    steps = SharedSteps(codewords, evidence.config.privacy.quantizer.learning_rate)
    for round in sorted(sums):
        total, markets = sums[round]
        if len(total) != codewords.numel():
            return None
        if plan.shared is not None and plan.sends_gradient(round):
            steps.apply(total, plan.shared.unit)
        else:
            start = codewords.detach().numpy().copy()
            move(codewords, start, evidence.aggregation.codec.decode(total).reshape(start.shape) / markets)
    words: Array = codewords.detach().numpy()
    return words


def _ctr(evidence: Evidence, market: str, seed: int) -> Iterator[Finding]:
    path = RunDirectory(evidence.directory).ctr(market, seed)
    released = [
        evidence.messages.content[record.file]
        for record in evidence.messages.records
        if (record.kind, record.stage, record.sender) == (PUBLICATION, seed_stage(CTR, seed), market)
    ]
    try:
        data = read_bytes(path, below=evidence.directory)
    except ForeignFileError as error:
        yield Finding(str(path), _said(path, error))
        return
    if released and data != released[0]:
        yield Finding(str(path), f"is not what market {market} published")


def _head(evidence: Evidence, market: str, opened: Opened) -> Iterator[Finding]:
    """A market's head is what the recorded sums grow; nobody has to show it."""
    path = RunDirectory(evidence.directory).head(market)
    sums, grower = sums_of(evidence.messages, opened, HEAD), HeadGrower.of(evidence.config)
    complete = set(sums) == set(range(evidence.config.head.rounds))
    if not path.exists() or not complete or any(len(total) != grower.length for total, _ in sums.values()):
        return  # where sums are missing, a finding about the rounds
    for round in sorted(sums):
        grower.grow(sums[round][0])
    try:
        found, wanted = parse_arrays(read_bytes(path, below=evidence.directory), path), grower.head.to_arrays()
    except ForeignFileError as error:
        yield Finding(str(path), _said(path, error))
        return
    if found.keys() != wanted.keys() or not all(np.array_equal(found[name], wanted[name]) for name in wanted):
        yield Finding(str(path), "is not the head that the recorded sums grow")


def _said(path: Path, error: ForeignFileError) -> str:
    return str(error).removeprefix(f"{path}: ")


def _code_table(evidence: Evidence, market: str, plan: SpendingPlan, published: Publications) -> Iterator[Finding]:
    """The market's own table: one row a user and an item and a seed; item codes are the published ones."""
    path = RunDirectory(evidence.directory).codes(market)
    if not path.exists():
        return  # it holds user codes, which nobody has to show: the last line commits to it
    rows = (plan.size.users + plan.size.items) * len(evidence.config.seed)
    try:
        table = parse_table(read_bytes(path, below=evidence.directory), path, CODE_COLUMNS, rows=rows)
    except ForeignFileError as error:
        yield Finding(str(path), _said(path, error))
        return
    stated = sections(evidence.metrics, "privacy", "catalogue").get(market, {}).get("sha256")
    for seed in evidence.config.seed:
        released = published.read.get(seed_stage(ITEM_CODES, seed))
        of_items = table[(table.kind == "item") & (table.seed == seed)]
        items = of_items[["global_code", "local_code"]].to_numpy()
        if Catalogue("declared", of_items["id"].to_numpy(dtype=object)).sha256 != stated:
            yield Finding(str(path), f"items of seed {seed} are not those of the catalogue that the metrics state")
        if len(items) != plan.size.items:
            yield Finding(str(path), f"{len(items)} items of seed {seed} where {plan.size.items} are expected")
        elif released is not None and not np.array_equal(items, released["codes"]):
            yield Finding(str(path), f"item codes of seed {seed} are not what market {market} published")
