"""The command line, configurations, run directories, reports."""
