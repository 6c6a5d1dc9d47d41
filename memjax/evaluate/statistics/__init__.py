"""Figures with their uncertainty: ROC, bootstrap, correlation, paired tests."""
