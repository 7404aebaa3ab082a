"""Budgets, ledger, accountants, verification."""
