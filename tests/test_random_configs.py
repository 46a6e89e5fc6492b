"""Three hundred models of random configurations between guards: see `random_configs.py`, which makes thousands by hand."""

import random_configs


def test_random_configurations() -> None:
    outcomes = [random_configs.run(f"suite {number}") for number in range(300)]
    assert outcomes.count("same") > 50
    assert outcomes.count("refused at load") > 50
