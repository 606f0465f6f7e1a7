"""The demo: the article's network, trained, killed in the midst of a save, resumed, loaded.

Every part runs in a process of its own: `train` may be killed, `predict` has never seen the
training code. They report to `milepost demo` with one JSON object a line.
"""
