"""What the process imports that ``tests.processes`` forks from."""

import gc

import torch

import experiments.cli
import experiments.deploy.market
import experiments.reports.sweep
import experiments.sweep.scheduler  # noqa: F401
from tests.accounting_cache import share_answers
from tests.figure_sketch import sketch_figures
from tests.processes import measure_less, skip_syncs

skip_syncs()
measure_less()
torch.set_num_threads(1)
torch.optim.Adam([torch.zeros(1)])  # the first optimiser of a process imports for two seconds
share_answers()
sketch_figures()
gc.freeze()  # what is here stays, in this process and its forks
gc.enable()
