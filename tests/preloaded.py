"""What tests import that run in processes of their own, for the one that ``tests.processes`` forks from."""

import gc
import sys
from importlib import import_module

import torch

import experiments.cli
import experiments.deploy.market
import experiments.reports.sweep
import experiments.sweep.scheduler  # noqa: F401
from tests.commands import COMMANDS

if "flwr" in sys.modules:  # some test is about it
    for entry in COMMANDS.values():
        import_module(entry.partition(":")[0])
torch.optim.Adam([torch.zeros(1)])  # the first optimiser of a process imports for two seconds
gc.freeze()  # what is here stays, in this process and its forks
gc.enable()
