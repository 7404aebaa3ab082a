"""How a newcomer gets to a run: a first configuration from files, and the quickstart."""
