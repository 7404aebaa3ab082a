"""Audits of code: whether a mechanism is what its ledger line says, and what an audit would have seen if not."""

AIM = 2.0  # times the claimed ε: what an audit is made to see; one that would not have seen it is weak
AUDIT_LEVEL = 0.05  # false-alarm rate of a whole audit; at a lower one no report takes its word
LOST = 0.01  # of the level of what canary users show: that those who are in were lost on the way
