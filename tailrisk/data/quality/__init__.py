"""What is wrong with a table: findings, those that would poison an estimate apart, with the file and row of each."""

from .depth import mid_bounds as mid_bounds
from .depth import phantom as phantom
from .examine import examine as examine
from .examine import sound as sound
from .finding import Finding as Finding
from .finding import Report as Report
from .prices import reverting as reverting
