"""What every service and the agent stand on."""

if __name__ != "undersong.shared":  # under a second name every module and type would exist twice
    raise ImportError("import undersong.shared, not shared: this is no package of its own")
