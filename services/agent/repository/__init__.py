"""What the agent keeps on this site's disk: its state, what engines must know after a kill, models, alarms."""
