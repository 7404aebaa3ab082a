"""A compliance report's contents in formats of others: each a function of the document, which alone is computed."""
