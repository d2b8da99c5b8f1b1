"""The deployable parts; each is the sole owner of its tables and secrets."""

if __name__ != "undersong.services":  # under a second name every module and type would exist twice
    raise ImportError("import undersong.services, not services: this is no package of its own")
