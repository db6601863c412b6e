"""The built-in model projects; each knows its own data and nothing of the others."""
