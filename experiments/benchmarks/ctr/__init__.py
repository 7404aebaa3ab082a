"""Training of CTR models beside that of other libraries, each in an interpreter that has it."""
