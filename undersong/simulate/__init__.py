"""Simulation: a job over many clients on one machine, with the deployed recipes, quantiser, strategies and accounting.

from undersong.simulate import simulate

run = simulate(job, "datasets.yaml", clients=100, partition="dirichlet:0.3", sample=0.1)
run.metrics, run.frame(), run.model
"""

from undersong.simulate.conditions import ConditionsInvalid
from undersong.simulate.runs import Run, compare_runs, plot_runs
from undersong.simulate.simulation import simulate

__all__ = ["ConditionsInvalid", "Run", "compare_runs", "plot_runs", "simulate"]
