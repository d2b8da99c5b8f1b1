"""Learning on flat vectors: tensors and files, server strategies, and metrics from sums. Pure numpy."""
