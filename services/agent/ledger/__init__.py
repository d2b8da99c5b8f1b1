"""The owner's ledger: what each round cost in privacy, charged before it trains."""
