"""Training recipes: what a site runs on its data, and how data sets are read. No service is needed to use them."""
