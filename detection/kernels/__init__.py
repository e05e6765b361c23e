"""Faster forms of functions in geometry/ and networks/, each equal to its plain form; `choice.py` chooses."""
