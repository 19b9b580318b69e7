"""How fast dlf is: against what one would pick instead, and against what the machine can do.

task.py      the work that everyone does: the networks, and the watch that a peer carries; data.py, the samples
peers/       one file a peer; each is a process of its own that prints one line of JSON
figures.py   medians, ratios and the targets; pure functions
rounds.py    runs everyone in turn, A B C A B C; processes.py starts one and reads off what it cost
compare.py   the command that compares; __main__.py is the command line
report.py    the figures as text and as Markdown
growth.py    how time and memory grow with width, depth, batch and samples
mapped.py    data larger than memory: how much memory, at what rate
cuda.py      dlf on a GPU beside the GPU's own floor
accuracy.py  a command of its own: not how fast, but how good

The processes are started from one that never imports torch: Linux counts the memory of the starting process towards the
peak of the started one.
"""
