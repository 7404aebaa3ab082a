"""A market that joins a federation: a head that was fitted on the others alone, over features that name no id."""
