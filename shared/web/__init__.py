"""The HTTP edge that every service shares: `app`, `access`, `body`, `idempotency`, `problems`, `settings`, `server`."""
