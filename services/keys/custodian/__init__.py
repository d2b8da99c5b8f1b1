"""A custodian: one of several services that hold shares of every site's key and open only the sum of keys."""
