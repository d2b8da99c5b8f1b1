"""This site as its files describe it: policy, data sets, recipes and device, and what of them is shown."""
