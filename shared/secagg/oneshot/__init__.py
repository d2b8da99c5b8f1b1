"""Engine `oneshot`: one message from each site, encrypted under a sum of keys that several custodians open together."""
