"""What rows must look like, and what is counted of them. Pure."""
