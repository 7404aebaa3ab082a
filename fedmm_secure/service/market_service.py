"""One market's part of a deployed run: answers what the server asks, with the same ``MarketClient`` as in process.

A home folder holds all that the market needs: ``config.yaml``, ``keys/``, the market's data, and ``runs/<run id>/``,
one run directory for each run that it took part in. The server can ask for four things: who are you (``hello``), a
statement that you take part in a round (``state``), an update (``update``), and to end (``finish``). It gets signed
messages, or a reason that says nothing of the data. A sum that it brings is answered before it is opened, so no answer
depends on what is in it; if it is not what the markets sent, the run is over here, and the shared key is given up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from fedmm_secure.config import Config
from fedmm_secure.data.prepare import load_one_market, prepare
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.account import begin_account
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.agreement import Agreement, check_start, ended_file
from fedmm_secure.federation.closing import is_closed
from fedmm_secure.federation.coins import require_coin
from fedmm_secure.federation.introductions import meet
from fedmm_secure.federation.lobby import Lobby
from fedmm_secure.federation.members import Membership, load_masks
from fedmm_secure.federation.orders import OrderError, RunEndedError
from fedmm_secure.federation.parties import (
    make_agreement,
    market_sizes,
    mask_file,
    start_of,
)
from fedmm_secure.federation.requests import Reply, Request, RequestError, is_run_id, longest_request
from fedmm_secure.federation.transcript import Transcript
from fedmm_secure.field.compare import refuse_apart
from fedmm_secure.guarantee.stages import scheduled
from fedmm_secure.pipeline import Listener
from fedmm_secure.results.metrics import RunMetrics, describe
from fedmm_secure.service.attempts import Attempts
from fedmm_secure.service.market_run import MarketRun
from fedmm_secure.service.refusals import ConsentError, Journal, told
from fedmm_secure.storage.layout import RunDirectory
from privacy.aggregation.keys import KeyBurnedError

CONCLUDE_AGAIN = 60.0


class MarketService:
    """Answers requests for one market; one at a time.

    Its data are read, prepared and compared with the bundle when it is made, and never again: whatever is wrong with a
    row, its operator learns before there is anybody who could be answered. So no answer depends on rows but by what is
    charged.

    Args:
        config: the market's own configuration; the server's must agree with it.
        market: its name.
        member: its keys.
        runs: folder of the run directories.
        max_runs: how many runs the operator agrees to, earlier ones included.
        log: told what happened as (event, fields); stays in the market, and never raises.
        begin: told of the directory of a new run before anything of its data is written to it.

    Raises:
        InputError: configuration, keys, data or account cannot be used, or the bundle states another size than the data
            have.
    """

    def __init__(
        self,
        config: Config,
        market: str,
        member: Membership,
        runs: Path,
        *,
        max_runs: int = 1,
        log: Listener = lambda event, fields: None,
        begin: Callable[[Path], None] = lambda directory: None,
    ) -> None:
        if market not in member.bundle.markets:
            raise ConfigError(f"market {market}: not in the federation of {member.directory.path}")
        refuse_apart(config)
        torch.set_num_threads(1)
        self._data = prepare(load_one_market(config.data, market), config.data)
        sizes = market_sizes(config, member.bundle.markets, {market: self._data}, member.bundle.sizes)
        begin_account(config, runs)
        self.market = market
        self._config, self._member, self._folder = config, member, runs
        self._max_runs, self._log, self._begin = max_runs, log, begin
        self._lobby, self._journal, self._opening = Lobby(runs), Journal(log), Attempts()
        self._runs: dict[str, MarketRun] = {}
        self.finished: list[str] = []
        self._not_before = 0.0  # of the next conclusion
        stages = dict(scheduled(config))
        plan = AggregationPlan.of(config, sizes)
        longest = max((plan.of_stage(stage).server().aggregate_bytes for stage in stages), default=0)
        self.longest_request = longest_request(member.bundle.markets, longest, sum(stages.values()))

    def answer(self, request: bytes) -> bytes:
        """The reply to a request; never raises, and tells the server nothing of the data.

        What it brings to be opened is opened by ``settle``, which is to be called once the reply is on its way.
        """
        self.settle()
        try:
            reply = self._dispatch(Request.from_bytes(request, self.longest_request))
        except Exception as error:
            self._journal.refused(error)
            reply = Reply(absent=told(error))
        return reply.to_bytes()

    def settle(self) -> None:
        """Open the sums that were taken; a run whose sum is not what the markets sent is over. Never raises."""
        for run, found in list(self._runs.items()):
            self._settle(run, found)

    def _settle(self, run: str, found: MarketRun) -> None:
        try:
            found.settle()
        except Exception as error:
            self._journal.refused(error)
            with suppress(OSError):  # a disk that fails: the run is over when it can say so
                if found.agreement.ended:
                    self._runs.pop(run, None)

    def _dispatch(self, request: Request) -> Reply:
        run = request.run
        if ended_file(self._folder / run, self.market).exists():
            raise RunEndedError
        if not (self._folder / run).exists():
            return self._before(request)
        if run not in self._runs and is_closed(self._folder / run, (self.market,)):
            return self._after(request)
        return self._within(request, self._open(run))

    def _before(self, request: Request) -> Reply:
        """Answers of a run that has not begun: it is announced, at most. Charges nothing."""
        run = request.run
        if request.step == "hello":
            check_start(request.start, run, start_of(self._config), self._member.bundle)
            self._refuse_more_runs()
            directory = self._lobby.enter(run)
            masks = load_masks(self.market, mask_file(directory, self.market), [])
            return Reply(message=self._agreement(run).hello(request.start, masks.public))
        if run not in self._lobby or request.order is None:
            raise RequestError("no run of that name was announced")
        agreement = self._agreement(run)
        if request.step == "state":
            if request.hellos:
                agreement.meet(request.hellos)
            return Reply(message=agreement.state(request.order))
        agreement.agree(request.order, request.statements)
        self._refuse_more_runs()
        self._begin(self._lobby.path(run))
        self._lobby.leave(run)
        return self._within(request, self._open(run))

    def _within(self, request: Request, run: MarketRun) -> Reply:
        """Answers of a run that has begun."""
        if request.step == "hello":
            return Reply(message=run.hello(request.start))
        if request.aggregate:
            run.take(request.aggregate, request.statements or None)
        place, order = run.agreement.place, request.order
        if order is None:  # finish
            if place is None and request.run not in self.finished:
                self.finished.append(request.run)
            return Reply(done=True) if place is None else Reply(behind=place)
        if place is not None and order.place != place:
            return Reply(behind=place)
        if request.step == "state":
            if request.hellos:
                meet(run.federation, request.hellos)
            return Reply(message=run.agreement.state(order))
        run.agreement.agree(order, request.statements)
        sent: list[bytes] = []
        run.update(order, sent.append)
        fields = {"run": request.run, "stage": order.stage, "round": order.round, "attempt": order.attempt}
        self._journal.often(f"update {fields}", 1, "update", lambda: fields)
        return Reply(message=sent[0])

    @staticmethod
    def _after(request: Request) -> Reply:
        """Answers of a run that is concluded, however often it is asked: nothing is opened for it again."""
        if request.step != "finish":
            raise OrderError("this run is concluded at this market")
        return Reply(done=True)

    def _refuse_more_runs(self) -> None:
        taken = len(run_directories(self._folder))
        if taken >= self._max_runs:
            raise ConsentError(f"its operator agreed to {self._max_runs} runs, and {taken} were made")
        directory, bundle = self._member.directory, self._member.bundle
        directory.key(self._member.identity, bundle)
        directory.check_allowance(bundle, len(start_of(self._config).places))

    def _agreement(self, run: str) -> Agreement:
        """What was agreed on in a run that has not begun."""
        directory = self._lobby.path(run)
        transcript = Transcript(RunDirectory(directory).transcript)
        member = self._member
        return make_agreement(self._config, self.market, member.identity, member.bundle, directory, run, transcript)

    def _open(self, run: str) -> MarketRun:
        """A run that has begun, from where its kept state stands."""
        if run not in self._runs:
            self._runs[run] = found = self._opening.of(run, partial(self._opened, run))
            self._note(run, "market", {"market": self.market, **describe(found.prepared[self.market])})
            self._settle(run, found)  # a process that was killed had taken it and not opened it
        if run not in self._runs or not self._runs[run].settled:
            raise RunEndedError  # or a disk that fails: the server cannot tell
        return self._runs[run]

    def _opened(self, run: str) -> MarketRun:
        """Each opening is entered in the privacy account, so what keeps it from going on is asked first."""
        directory = self._folder / run
        self._member.directory.key(self._member.identity, self._member.bundle)
        require_coin(self._config, self.market, directory)
        return MarketRun.open(self._config, self._data, self.market, self._member, directory, run)

    def conclude_finished(self) -> list[tuple[str, RunMetrics]]:
        """Train and measure the market's own models of runs whose rounds are over.

        What a full disk, or one that fails, keeps from its end is tried again ``CONCLUDE_AGAIN`` seconds later.
        """
        self.settle()
        done: list[tuple[str, RunMetrics]] = []
        while self.finished and time.monotonic() >= self._not_before:
            run = self.finished[0]
            directory = self._folder / run
            over = ended_file(directory, self.market).exists() or is_closed(directory, (self.market,))
            try:
                if not over:
                    done.append((run, self.conclude(run)))
            except KeyBurnedError as error:  # a crash between the key and the mark of the run: it is over
                self._journal.refused(error)
            except (OSError, RunEndedError) as error:  # the latter where a sum is not opened yet, for the same reason
                self._journal.refused(error)
                self._runs.pop(run, None)  # and what it has in memory
                self._not_before = time.monotonic() + CONCLUDE_AGAIN
                break
            self.finished.pop(0)
        return done

    def conclude(self, run: str) -> RunMetrics:
        """The market's own stages of one run, after which its ledger is closed."""
        metrics = self._open(run).conclude(partial(self._note, run))
        del self._runs[run]
        return metrics

    @property
    def concluded(self) -> int:
        """How many runs are concluded, those of earlier processes included."""
        return sum(is_closed(directory, (self.market,)) for directory in run_directories(self._folder))

    def _note(self, run: str, event: str, fields: Mapping[str, object]) -> None:
        self._log(event, {"run": run, **fields})


def run_directories(folder: Path) -> list[Path]:
    """Run directories in a folder, by name."""
    return sorted(path for path in folder.glob("*") if is_run_id(path.name))
