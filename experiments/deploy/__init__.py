"""A federation as separate processes on Flower: certificates, homes of the parties, engine, commands."""
