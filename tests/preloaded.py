"""What the process imports that ``tests.processes`` forks from."""

import torch

import experiments.cli
import experiments.deploy.market
import experiments.reports.sweep
import experiments.sweep.scheduler  # noqa: F401
from tests.accounting_cache import share_answers

torch.set_num_threads(1)
share_answers()
