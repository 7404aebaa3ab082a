"""A hostile server with all other markets, at random: orders, kills at any write, and copies of a run put back.

Whatever it does, two vectors never leave the market under one mask, and no vector leaves that its ledger has not
charged and sealed. The masks are the colluders' too, so what leaves is opened here to the last value.
"""

import os
import random
import shutil
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from experiments.deploy.homes import prepare_homes
from fedmm_secure.federation import parties
from fedmm_secure.federation.messages import Hello, hello_header, pack, unpack
from fedmm_secure.federation.orders import Order, Statement
from privacy.accounting.ledger import read_ledger
from privacy.aggregation import Binding, PairwiseMasks
from tests.conftest import STATE
from tests.dishonest import STAGE, DishonestServer
from tests.faults import configuration

MARKET, ROUNDS = "m0", 2
WRITES = ("fsync", "replace", "rename", "unlink", "link", "mkdir", "ftruncate")


class KilledError(BaseException):
    """The process is gone: nothing that it does after this reaches the disk."""


@contextmanager
def killed_after(writes, monkeypatch):
    """A process that is killed so many writes later."""
    left = [writes]

    def dying(call):
        def called(*given, **named):
            left[0] -= 1
            if left[0] < 0:
                raise KilledError
            return call(*given, **named)

        return called

    with monkeypatch.context() as patch:
        for name in WRITES:
            patch.setattr(os, name, dying(getattr(os, name)))
        with suppress(KilledError):
            yield


class Colluders(DishonestServer):
    """The server and all markets but one."""

    def __init__(self, root, run, **options):
        super().__init__(root, run, **options)
        self.others = [market for market in self.markets if market != MARKET]
        self.identities = {market: self.identity_of(market) for market in self.markets}
        self.secrets, self.sums = defaultdict(X25519PrivateKey.generate), {}
        self.own_hellos, self.vectors = {}, defaultdict(set)
        self.directory = self.homes.market(MARKET) / "runs" / run

    def hellos_of(self, course):
        found = {MARKET: self.own_hellos[course]}
        for market in self.others:
            payload = Hello(self.secrets[course, market].public_key().public_bytes_raw(), self.start_hash).to_bytes()
            header = hello_header(self.run, market, self.bundle.digest, course)
            found[market] = pack(header, payload, self.identities[market].sign)
        return found

    @property
    def start_hash(self):
        return unpack(next(iter(self.own_hellos.values())))[1][32:]

    def stated(self, order, message):
        """Statements of all: whatever the market has stated."""
        statement = Statement(order, unpack(message)[1])
        signed = {
            market: pack(
                statement.header(self.run, market, self.bundle.digest), statement.history, self.identities[market].sign
            )
            for market in self.others
        }
        return {**signed, MARKET: message}

    def go_on(self, rng):
        """One step of an honest run, as far as the market says that it has come."""
        hello = self.ask(MARKET, "hello", start=self.start()).message
        if not hello:
            return
        course = unpack(hello)[0].attempt
        self.own_hellos[course] = hello
        place, sums = self.ask(MARKET, "finish").behind or (STAGE, 0), {}
        if place[1] in self.sums and rng.random() < 0.75:
            sums, place = {"aggregate": self.sums[place[1]]}, (STAGE, place[1] + 1)
        if place[1] == ROUNDS:
            self.ask(MARKET, "finish", **sums)
            return
        order = self.order(place[1])
        self.ask(MARKET, "state", order=order, hellos=self.hellos_of(course))
        message = self.ask(MARKET, "state", order=order, hellos=self.hellos_of(course), **sums).message
        if message:
            sent = self.ask(MARKET, "update", order=order, statements=self.stated(order, message)).message
            if sent:
                self.judge(order, sent)

    def judge(self, order, message):
        ledger = read_ledger(self.directory / "ledger" / f"{MARKET}.jsonl")
        sealed = [charge.entry for charge in ledger.charges if charge.sequence in ledger.seals]
        assert order.place in [(entry.stage, entry.round) for entry in sealed]  # before it left
        residues = self.opened([unpack(message)[1]])
        course, values = min(
            ((course, self.unmasked(residues, order, course)) for course in self.own_hellos),
            key=lambda found: np.abs(found[1]).max(),
        )
        assert np.abs(values).max() <= self.plan.value_bound  # under keys that all know
        self.vectors[order, self.own_hellos[course]].add(residues.tobytes())
        assert max(map(len, self.vectors.values())) == 1  # one vector under one mask
        self.sums.setdefault(order.round, self.sum_of(order, unpack(message)[1], course))

    def masks(self, market, course):
        own = Hello.from_bytes(unpack(self.own_hellos[course])[1]).mask_key
        masks = PairwiseMasks(market, self.secrets[course, market])
        known = {other: self.secrets[course, other].public_key().public_bytes_raw() for other in self.others}
        masks.meet({name: key for name, key in {**known, MARKET: own}.items() if name != market})
        return masks

    def unmasked(self, residues, order, course):
        binding, total = Binding(self.run, *order.place, order.attempt, order.cohort), residues.astype(np.uint64)
        for market in self.others:
            total = total - self.masks(market, course)._expand(MARKET, binding, len(residues))  # m0 is the first
        half = np.uint64(2 ** (self.plan.mask_bits - 1))
        return ((total + half) & np.uint64(2**self.plan.mask_bits - 1)).astype(np.int64) - np.int64(half)

    def sum_of(self, order, payload, course):
        binding = Binding(self.run, *order.place, order.attempt, order.cohort)
        zero, key = np.zeros(self.plan.length, np.int64), self.shared_key()
        others = [self.plan.market(key, self.masks(market, course)).protect(zero, binding) for market in self.others]
        return self.aggregate(order, [payload, *others])

    def shared_key(self):
        member = self.services[MARKET]._member
        return member.directory.key(member.identity, member.bundle)

    def wild(self, rng):
        cohort = rng.choice([self.markets, self.markets[:3], self.markets[1:]])
        order = Order(STAGE, rng.randrange(ROUNDS), rng.choice([0, 0, 1]), cohort)
        message = self.ask(MARKET, "state", order=order, aggregate=rng.choice([b"", *self.sums.values()])).message
        if message:
            sent = self.ask(MARKET, "update", order=order, statements=self.stated(order, message)).message
            if sent:
                self.judge(order, sent)


def put_back(copy, directory):
    shutil.rmtree(directory)
    shutil.copytree(copy, directory)


def play(server, rng, steps, monkeypatch):
    copy = server.homes.root / "copy"
    for _ in range(steps):
        match rng.choices(["on", "wild", "killed", "copied", "back"], [6, 2, 3, 2, 2])[0]:
            case "on":
                server.go_on(rng)
            case "wild":
                server.wild(rng)
            case "killed":
                with killed_after(rng.randrange(60), monkeypatch):
                    server.go_on(rng)
                server.restart(MARKET)
            case "copied" if server.directory.exists():
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(server.directory, copy)
            case "back" if copy.exists():
                put_back(copy, server.directory)
                server.restart(MARKET)


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    """Homes in which nothing was asked yet; updates carry noise, so that no two draws are alike."""
    privacy = {"epsilon": 8.0, "pseudo_users": 20, "quantizer": {"steps_per_round": 1}}
    root = tmp_path_factory.mktemp("founded") / "f"
    homes = prepare_homes(configuration("masked-ckks", federation={"rounds": ROUNDS}, privacy=privacy), root)
    return SimpleNamespace(homes=homes, run="d" * 32)


@pytest.fixture
def played(founded, tmp_path, monkeypatch):
    def play_one(seed, steps=14):
        monkeypatch.setenv(STATE, str(tmp_path / f"machine-{seed}"))
        server = Colluders.copy(founded, tmp_path / f"f-{seed}", max_runs=2)
        play(server, random.Random(seed), steps, monkeypatch)
        shutil.rmtree(server.homes.root)
        return server

    return play_one


@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 200), marks=pytest.mark.slow)], ids=["few", "many"])
def test_whatever_a_server_and_all_others_do(played, seeds):
    sent = sum(len(played(seed).vectors) for seed in seeds)
    assert sent >= len(seeds)  # it gets somewhere


def test_a_copy_with_the_same_mask_key_is_found(played, monkeypatch):
    """As it was: a copy that went on as another course drew other noise, and hid it under the same masks."""
    honest = parties.enter
    monkeypatch.setattr(parties, "enter", lambda *given: replace(honest(*given), parted=0))
    monkeypatch.setattr(parties, "_masked_before", lambda run, ledger: [])
    with pytest.raises(AssertionError, match="== 1"):
        list(map(played, range(1, 40)))
