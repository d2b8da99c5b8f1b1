"""Engine `sealed`: each update is encrypted to the aggregator, which sees each one."""
