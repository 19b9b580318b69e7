"""Everything that Rich draws: progress and messages on stderr, results on stdout.

    streams.py    streams that never raise, and the consoles that write to them
    words.py      values as words: numbers, durations, bytes, spark lines
    epochs.py     one epoch as a line of a log or a row of a terminal
    evaluated.py  what `dlf evaluate` found
    explained.py  what `dlf explain` found
    listed.py     the runs of a folder
    checked.py    what `dlf check` found
    compared.py   runs beside each other
    notebook.py   outputs of a Jupyter notebook
    progress.py   what is told while training
    predicted.py  what a network says of samples of your own
    results.py    what is shown afterwards
    recorded.py   the epochs of a run
    reasons.py    what `dlf why` found
    repeated.py   whether a run that was trained again is the same
    tables.py     what tables share
    trials.py     what is told while `dlf why` trains

No failure to draw reaches the training. What a stream refuses (closed, full, a broken pipe, characters that its
encoding lacks) ends in `streams.Stream`; whatever else goes wrong ends in `progress._Unbreakable`.
"""

from dlf.display.checked import show_check
from dlf.display.compared import show_comparison
from dlf.display.evaluated import show_evaluation
from dlf.display.explained import show_explanation
from dlf.display.listed import removal_text, show_removed, show_runs
from dlf.display.notebook import in_notebook
from dlf.display.predicted import show_predictions
from dlf.display.progress import training
from dlf.display.reasons import show_topics, show_why
from dlf.display.recorded import show_records
from dlf.display.repeated import show_reproduction
from dlf.display.results import show_summary, show_training
from dlf.display.streams import show_text
from dlf.display.trials import trials

__all__ = [
    "in_notebook",
    "removal_text",
    "show_check",
    "show_comparison",
    "show_evaluation",
    "show_explanation",
    "show_predictions",
    "show_records",
    "show_removed",
    "show_reproduction",
    "show_runs",
    "show_summary",
    "show_text",
    "show_topics",
    "show_training",
    "show_why",
    "training",
    "trials",
]
