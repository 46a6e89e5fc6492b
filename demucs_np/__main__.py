"""`python -m demucs_np`."""

from .commands.main import main

main(prog_name="python -m demucs_np")
