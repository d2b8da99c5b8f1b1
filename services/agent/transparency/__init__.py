"""What the agent checks in public: receipts of its updates, and the transparency log."""
