"""Estimators of tails and their intervals; they know no finance."""

from . import measures as measures
