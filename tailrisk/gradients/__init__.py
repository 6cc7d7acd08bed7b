"""Gradients of expected losses through hard liquidation thresholds, each with a method, an error and a statement of bias."""
