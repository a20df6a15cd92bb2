"""What to try next. optuna's study lives as long as one suggestion: what it knows are inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crucible.errors import Problem, UserError
from crucible.sdk.suggestion import did_you_mean

if TYPE_CHECKING:
    from optuna.distributions import FloatDistribution

    from crucible_components.search.component import Range, SuggestConfig

STARTUP_TRIALS = 4
"""Results before TPE trusts them."""


@dataclass(frozen=True)
class Trial:
    """Parameters and how they did."""

    parameters: Mapping[str, float]
    metrics: Mapping[str, float]


def suggest(config: SuggestConfig, trials: Sequence[Trial], *, seed: int) -> dict[str, float]:
    """Numbers by parameter; the same for the same trials, seed and ``config.number``.

    Args:
        config: the space, the objective, and which of several suggestions this is.
        trials: what was tried.
        seed: of the sampler.

    Raises:
        UserError: a trial lacks the objective or a parameter.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problems = [p for n, trial in enumerate(trials) for p in _problems(config, n, trial)]
    if problems:
        raise UserError(f"{len(problems)} trials cannot be used: {problems[0]}", problems)
    if config.sampler == "quasi-random" or len(trials) < STARTUP_TRIALS:
        return _spread(config, len(trials) + config.number, seed)
    space = {name: _distribution(config, name) for name in config.space}
    # The constant liar keeps suggestions that are made side by side apart.
    sampler = optuna.samplers.TPESampler(
        seed=seed % 2**32, n_startup_trials=STARTUP_TRIALS, constant_liar=True
    )
    study = optuna.create_study(direction=config.direction, sampler=sampler)
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(
                params={name: trial.parameters[name] for name in space},
                distributions=dict(space),
                value=trial.metrics[config.objective],
            )
        )
    for _ in range(config.number):
        study.ask(dict(space))  # its neighbours, which run beside it
    return {name: float(value) for name, value in study.ask(dict(space)).params.items()}


def _problems(config: SuggestConfig, number: int, trial: Trial) -> list[Problem]:
    found = []
    if config.objective not in trial.metrics:
        fix = did_you_mean(config.objective, trial.metrics)
        found.append(Problem(f"results[{number}].{config.objective}", "is missing.", fix))
    for name in config.space.keys() - trial.parameters.keys():
        fix = did_you_mean(name, trial.parameters)
        found.append(Problem(f"tried[{number}].{name}", "is missing.", fix))
    return found


def _spread(config: SuggestConfig, number: int, seed: int) -> dict[str, float]:
    """One point of a sequence that fills the space evenly (Halton, scrambled)."""
    from scipy.stats import qmc

    points = qmc.Halton(d=len(config.space), seed=seed % 2**32).random(number + 1)
    return {
        name: _scaled(given, float(share))
        for (name, given), share in zip(config.space.items(), points[-1], strict=True)
    }


def _scaled(given: Range, share: float) -> float:
    if given.log:
        return float(given.low * (given.high / given.low) ** share)
    if given.step is None:
        return given.low + share * (given.high - given.low)
    count = math.floor((given.high - given.low) / given.step + 1e-9) + 1
    return given.low + min(count - 1, int(share * count)) * given.step


def _distribution(config: SuggestConfig, name: str) -> FloatDistribution:
    from optuna.distributions import FloatDistribution

    given = config.space[name]
    return FloatDistribution(given.low, given.high, log=given.log, step=given.step)
