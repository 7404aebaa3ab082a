"""Audits of code: whether a mechanism is what its ledger line says, and what an audit would have seen if not."""

AIM = 2.0  # times the claimed ε: what an audit is made to see; one that would not have seen it is weak
