"""Figures and the table of a run: arrays in, files out."""

from .calibration import draw_calibration as draw_calibration
from .calibration_report import format_calibration as format_calibration
from .distributions import draw_cascade_sizes as draw_cascade_sizes
from .distributions import draw_exceedance as draw_exceedance
from .extremes import draw_hill as draw_hill
from .extremes import draw_mean_excess as draw_mean_excess
from .extremes import draw_return_levels as draw_return_levels
from .extremes import draw_stability as draw_stability
from .liquidations import draw_liquidation_map as draw_liquidation_map
from .payers import draw_who_pays as draw_who_pays
from .policy import draw_certificate as draw_certificate
from .policy import draw_front as draw_front
from .policy_report import format_policy as format_policy
from .prices import draw_bad_path as draw_bad_path
from .prices import draw_fan as draw_fan
from .run import Drawn as Drawn
from .run import draw_all as draw_all
from .style import MissingData as MissingData
from .sweep import draw_sweep as draw_sweep
from .table import format_table as format_table
