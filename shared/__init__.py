"""What every service and the agent stand on."""
