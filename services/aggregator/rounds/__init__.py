"""Opening, closing and ending rounds."""
