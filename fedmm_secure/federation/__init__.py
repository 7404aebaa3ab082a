"""Messages, the one door, market client, server and the round loop."""
