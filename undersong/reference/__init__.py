"""Reference pages in docs/reference, generated from the models, parsers and metrics themselves (`make docs`)."""
