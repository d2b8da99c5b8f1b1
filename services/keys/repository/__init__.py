"""All SQL of the keys service; rows stay inside, except the authority's and a witnessed round's."""
