"""Recipes of one's own before they go to a site: written from a template, and checked in a confined child process."""
