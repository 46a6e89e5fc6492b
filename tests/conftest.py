"""For the whole suite: Ctrl-C works, also where the suite was started in the background.

A shell starts background jobs with SIGINT ignored, and Python then leaves it ignored: tests that send themselves or a child a Ctrl-C
would wait for ever.
"""

import signal

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
