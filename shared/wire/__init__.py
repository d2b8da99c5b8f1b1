"""What crosses a trust boundary: signed documents and binary bodies, with no driver and no framework."""
