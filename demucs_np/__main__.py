"""`python -m demucs_np`."""

from .cli import main

main(prog_name="python -m demucs_np")
