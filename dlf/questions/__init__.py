"""`dlf why`: questions about deep learning, answered by paired experiments on a user's own configuration.

design.py    what a topic asks: settings to compare, numbers to measure, what is expected of them
trials.py    every setting trained with the same seeds
results.py   what came of it: means, intervals of paired differences, whether the effect appears
picture.py   the courses and the figures of all settings in one picture
topics/      one file a topic
"""
