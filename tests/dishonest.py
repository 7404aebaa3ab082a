"""A server that asks real market services whatever it likes, signed with the server's own identity."""

import shutil
from dataclasses import replace

import numpy as np

from experiments.deploy.homes import Homes
from experiments.deploy.market import open_service
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.messages import Header, pack, unpack
from fedmm_secure.federation.orders import Order, start_header
from fedmm_secure.federation.parties import start_of
from fedmm_secure.federation.requests import Reply, Request
from fedmm_secure.storage.run_directory import read_config
from privacy.accounting.ledger import read_ledger
from privacy.aggregation.ckks import _read_sum
from privacy.aggregation.keys import KeyBurnedError, KeyDirectory
from privacy.aggregation.packing import pack_words
from privacy.aggregation.seal import modulus

STAGE = "quantizer/0"


class DishonestServer:
    """Server and markets of a federation on disk, without anything between them.

    Attributes:
        seen: every answer, as bytes, by market.
        logged: what the markets' private logs were told, by market.
    """

    def __init__(self, root, run="d" * 32, **options):
        self.homes, self.run = Homes(root), run
        self.markets = tuple(self.homes.markets)
        keys = KeyDirectory(self.homes.server / "keys")
        self.identity, self.bundle = keys.identity(), keys.bundle()
        self.config = read_config(self.homes.server)
        self.plan = AggregationPlan.from_public(self.bundle.aggregation)
        self.adder = self.plan.server()
        self.seen, self.logged = {m: [] for m in self.markets}, {m: [] for m in self.markets}
        self.services, self.options = {}, options
        for market in self.markets:
            self.restart(market)

    @classmethod
    def copy(cls, template, root, **options):
        """The same federation, from where another one stands."""
        shutil.copytree(template.homes.root, root, symlinks=True)
        return cls(root, template.run, **options)

    def restart(self, market):
        log = self.logged[market]
        home = self.homes.market(market)
        self.services[market] = open_service(
            home, log=lambda event, fields: log.append((event, fields)), **self.options
        )

    # -- what is asked ---------------------------------------------------------------------------------------------

    def ask(self, market, step, **fields):
        """One request, and whatever the market does once it has answered."""
        answer = self.services[market].answer(Request(step, fields.pop("run", self.run), **fields).to_bytes())
        self.seen[market].append(answer)
        self.services[market].settle()
        return Reply.from_bytes(answer)

    def sign(self, header, payload, sign=None):
        return pack(header, payload, sign or self.identity.sign)

    def start(self, run=None, start=None, sign=None):
        header = start_header(run or self.run, self.bundle)
        return self.sign(header, (start or start_of(self.config)).to_bytes(), sign)

    def hellos(self, run=None):
        asked = {m: self.ask(m, "hello", run=run or self.run, start=self.start(run)) for m in self.markets}
        return {market: reply.message for market, reply in asked.items()}

    def order(self, round, attempt=0, cohort=None):
        return Order(STAGE, round, attempt, cohort or self.markets)

    def state(self, order, **fields):
        return {market: self.ask(market, "state", order=order, **fields).message for market in order.cohort}

    def updates(self, order, statements):
        return {m: self.ask(m, "update", order=order, statements=statements).message for m in order.cohort}

    def aggregate(self, order, payloads, cohort=None, sign=None):
        """An aggregate over any payloads, or of any bytes, that names any cohort."""
        payload = payloads if isinstance(payloads, bytes) else self.adder.aggregate(payloads)
        cohort = cohort or order.cohort
        parts = (order.stage, order.round, order.attempt, "server", self.bundle.digest, cohort)
        return self.sign(Header("aggregate", self.run, *parts), payload, sign)

    def round(self, round, aggregate=b"", hellos=None):
        """An honest round up to its updates: statements, payloads by market, and the honest aggregate."""
        order = self.order(round)
        statements = self.state(order, aggregate=aggregate, hellos=hellos or {})
        payloads = {market: unpack(m)[1] for market, m in self.updates(order, statements).items()}
        return statements, payloads, self.aggregate(order, list(payloads.values()))

    def identity_of(self, market):
        """A colluding market's own keys."""
        return KeyDirectory(self.homes.market(market) / "keys").identity()

    # -- what comes of it ------------------------------------------------------------------------------------------

    def charges(self, market):
        path = self.homes.market(market) / "runs" / self.run / "ledger" / f"{market}.jsonl"
        return len(read_ledger(path).charges) if path.exists() else 0

    def over(self, market):
        """Whether the run has ended at a market: it says the one thing that it says then, and its key is gone."""
        keys = KeyDirectory(self.homes.market(market) / "keys")
        try:
            keys.key(keys.identity(), keys.bundle())
        except KeyBurnedError:
            asked = [self.ask(market, "finish"), self.ask(market, "hello", start=self.start())]
            assert {reply.absent for reply in asked} == {REFUSAL}
            return True
        return False

    def own(self, market, round=0, attempt=0):
        """What a market's update was, from its own transcript."""
        again = f".{attempt}" if attempt else ""
        name = f"{round:04d}{again}-own-update-{market}.bin"
        folder = self.homes.market(market) / "runs" / self.run / "private" / market / STAGE
        return np.frombuffer((folder / name).read_bytes(), "<i8")

    def carrier(self):
        """What a colluding market opens with the shared key, tags unasked: values, and limbs behind them."""
        keys = KeyDirectory(self.homes.market(self.markets[-1]) / "keys")
        return self.plan._carrier(keys.key(keys.identity(), keys.bundle()))

    def opened(self, payloads):
        """A sum as the first version opened it: whatever it is."""
        return self.carrier().reveal(self.adder.aggregate(payloads))[: self.plan.length]

    def offset(self, aggregate):
        """An aggregate's payload with one word moved: an offset that needs no key."""
        parameters = self.plan.parameters
        changed = b""
        for words, seeds in _read_sum(aggregate, parameters, modulus(parameters)):
            moved = words.copy()
            moved[0] = (moved[0] + np.uint64(2**parameters.scale_bits)) % np.uint64(modulus(parameters))
            changed += b"".join(seeds) + pack_words(moved, parameters.prime_bits)
        return changed


REFUSAL = "this run is over at this market; going on takes new keys and another run"


def resigned(message, identity, **changed):
    """A message of a colluding market, as it likes."""
    header, payload = unpack(message)
    payload = changed.pop("payload", payload)
    return pack(replace(header, **changed), payload, identity.sign)
