"""Prime fields: arithmetic on NumPy arrays, compiled where it is on the path of every update."""
