"""Digits by logistic regression."""
