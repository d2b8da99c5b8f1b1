"""Training recipes: what a site runs on its data, and how data sets are read. No service is needed to use them."""

if __name__ != "undersong.recipes":  # under a second name every module and type would exist twice
    raise ImportError("import undersong.recipes, not recipes: this is no package of its own")
