"""A market's process that commits one fault after another, a round each: ``python faulty_market.py HOME FAULT …``."""

import os
import sys
import time
from pathlib import Path

from experiments.deploy.market import run_market
from fedmm_secure.service.market_run import MarketRun
from tests.faults import FAULTS

home, order_of_faults = Path(sys.argv[1]), sys.argv[2:]
honest = MarketRun.update
SLOW_SECONDS = 45.0


def update(self, order, send):
    done = home / f"fault-{order.round}"
    fault = order_of_faults[order.round - 1] if 0 < order.round <= len(order_of_faults) else ""
    if not fault or done.exists():
        honest(self, order, send)
        return
    done.touch()
    if fault == "crashes":
        os._exit(1)
    if fault in ("hangs", "sends late"):
        time.sleep(SLOW_SECONDS)
        if fault == "sends late":
            honest(self, order, send)
        return
    FAULTS[fault](self.client(order.stage), order, send)


MarketRun.update = update
run_market(home, lifetime=1200.0)
