"""Plots of tails: what is drawn is what was computed, with limits and units."""

import numpy as np
import pytest
from extreme_data import DANISH_ABOVE_10, PORT_PIRIE

from tailrisk import figures
from tailrisk.figures import style
from tailrisk.tails.extremes import gev, thresholds

AT = np.array([10.0, 12.0, 15.0, 18.0])


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_mean_excess_and_its_line():
    curve = thresholds.mean_excess(DANISH_ABOVE_10, AT)
    figure = figures.draw_mean_excess(curve, "million DKK", (0.5, 7.0, 10.0))
    (axes,) = figure.axes
    np.testing.assert_array_equal(lines(axes)["sample, 95 % band"].get_ydata(), curve.value)
    np.testing.assert_allclose(
        lines(axes)["fitted law"].get_ydata(), [14.0, 22.0]
    )  # (scale + shape (u - 10))/(1 - shape)
    assert "(million DKK)" in axes.get_xlabel()
    assert len(axes.collections) == 1  # the band


def test_stability_shows_the_choice(tmp_path):
    shape, scale = thresholds.stability(DANISH_ABOVE_10, AT)
    choice = thresholds.choose(DANISH_ABOVE_10, AT, replicates=99)
    figure = figures.draw_stability(shape, scale, "million DKK", choice)
    assert [axes.get_ylabel() for axes in figure.axes] == ["Shape (1)", "Modified scale\n(million DKK)", "p-value (1)"]
    drawn = lines(figure.axes[2])["Anderson-Darling"].get_ydata()
    np.testing.assert_array_equal(drawn, [t.p_anderson_darling for t in choice.tests])
    assert any(line.get_xdata()[0] == choice.threshold == 10.0 for line in figure.axes[0].get_lines())
    assert len(figures.draw_stability(shape, scale, "USD").axes) == 2
    assert all(file.stat().st_size > 5_000 for file in style.save(figure, tmp_path, "stability"))


def test_hill_and_return_levels():
    curve = thresholds.hill(DANISH_ABOVE_10, np.arange(10, 100))
    (axes,) = figures.draw_hill(curve).axes
    np.testing.assert_array_equal(lines(axes)["Hill, 95 % band"].get_ydata(), curve.value)
    fit = gev.maximum_likelihood(PORT_PIRIE)
    (axes,) = figures.draw_return_levels(fit, "m", "years").axes
    np.testing.assert_array_equal(lines(axes)["maxima"].get_ydata(), np.sort(PORT_PIRIE))
    assert lines(axes)["maxima"].get_xdata()[-1] == pytest.approx(66.0)  # the largest of 65 years
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Return period (years)", "Level (m)")
