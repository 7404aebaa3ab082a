"""The command line, configurations, run directories, reports."""

from experiments.silence import silence

silence()
