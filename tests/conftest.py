"""For the whole suite: Ctrl-C works, also where the suite was started in the background.

A shell starts background jobs with SIGINT ignored, and Python then leaves it ignored: tests that send themselves or a child a Ctrl-C
would wait for ever.

And nobody's own models are seen.
"""

import os
import signal
import tempfile

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["DEMUCS_NP_MODELS"] = os.path.join(tempfile.gettempdir(), "demucs-np-tests-have-no-models")
