"""The rules of rounds, steps and updates: frozen values in, new values out; the time is an argument."""
