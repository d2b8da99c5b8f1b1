"""Privacy audits of a model version, on the auditor's own rows: attacks that measure what claims only promise."""
