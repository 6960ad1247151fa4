"""Gymnasium environments with combinatorial actions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from milp_rl.extras import needs
from milp_rl.formulations.suggestions import unknown

with needs("learn"):
    import gymnasium as gym

    from milp_rl.envs.adaptation import MaskedObservation, adapted
    from milp_rl.envs.arms import Arms
    from milp_rl.envs.assortment import DynamicAssortment
    from milp_rl.envs.bandits.additive import AdditiveBandit
    from milp_rl.envs.bandits.budget import BudgetBandit, BudgetInstance
    from milp_rl.envs.bandits.capacity import CapacityBandit, CapacityInstance
    from milp_rl.envs.bandits.instance import BanditInstance
    from milp_rl.envs.bandits.multiple_interventions import (
        MultipleInterventionsBandit,
        MultipleInterventionsInstance,
    )
    from milp_rl.envs.bandits.path import PathBandit, PathInstance
    from milp_rl.envs.bandits.restless_bandit import ArmChains, RestlessBandit
    from milp_rl.envs.bandits.scheduling import SchedulingBandit, SchedulingInstance
    from milp_rl.envs.control import ConstrainedControl
    from milp_rl.envs.known_model import KnownModelEnv
    from milp_rl.envs.navigation import CombinatorialNavigation
    from milp_rl.envs.rddl import RDDLEnv, from_rddl
    from milp_rl.envs.spaces import FeasibleActions
    from milp_rl.envs.vector import ParallelEpisodes

_BANDITS: tuple[tuple[type[BanditInstance], Any], ...] = (
    (MultipleInterventionsInstance, MultipleInterventionsBandit),
    (PathInstance, PathBandit),
    (SchedulingInstance, SchedulingBandit),
    (CapacityInstance, CapacityBandit),
    (BudgetInstance, BudgetBandit),
)
DOMAINS: dict[str, tuple[type[BanditInstance], Any]] = {
    kinds[0].domain: kinds for kinds in _BANDITS
}

PRESETS: dict[str, tuple[str, Callable[..., Any]]] = {
    "multiple_interventions_published": (
        "multiple_interventions",
        MultipleInterventionsInstance.published,
    ),
    "multiple_interventions_grouped": (
        "multiple_interventions",
        MultipleInterventionsInstance.grouped,
    ),
    "scheduling_published": ("scheduling", SchedulingInstance.published),
    "path_underground": ("path", PathInstance.underground),
} | {name: (name, kind.generate) for name, (kind, _) in DOMAINS.items()}
"""Domain and draw of instances, by the names that :func:`make_bandit` takes."""

for _, _bandit in _BANDITS:
    gym.register(
        id=f"milp_rl/{_bandit.__name__}-v0",
        entry_point=f"{_bandit.__module__}:{_bandit.__name__}",
    )

gym.register(
    id="milp_rl/Bandit-v0",
    entry_point="milp_rl.envs:make_bandit",
    kwargs={"domain": "budget", "n_arms": 10, "budget": 3, "seed": 0},
)
gym.register(
    id="milp_rl/CombinatorialNavigation-v0",
    entry_point="milp_rl.envs.navigation:CombinatorialNavigation",
)
gym.register(
    id="milp_rl/CareManagement-v0",
    entry_point="milp_rl.envs.care_management:CareManagement",
)
gym.register(
    id="milp_rl/Engagement-v0",
    entry_point="milp_rl.envs.engagement.environment:Engagement",
)
gym.register(id="milp_rl/Sepsis-v0", entry_point="milp_rl.envs.sepsis:Sepsis")
gym.register(
    id="milp_rl/DynamicAssortment-v0",
    entry_point="milp_rl.envs.assortment:DynamicAssortment",
)
gym.register(
    id="milp_rl/PerformativeRisk-v0",
    entry_point="milp_rl.envs.performative.environment:PerformativeRisk",
)


def make_bandit(
    domain: str, n_arms: int, budget: int, *, horizon: int = 20, seed: int
) -> RestlessBandit:
    """Draw an instance of a domain and return its environment.

    Action Space
    ------------
    Binary, int8, shape (J,): which arms are acted on. Which ones can be acted on together is the
    domain's: at most B (``"budget"``), those along one route (``"path"``), or those that B workers
    can serve (``"capacity"``, ``"scheduling"``). In ``"multiple_interventions"`` shape (N,) with
    N the larger of B and half of J, rounded down: which interventions are chosen, exactly B.

    Observation Space
    -----------------
    ``Box(0, 3, (J,), float32)``: the state of each arm, an index 0..3.

    Rewards
    -------
    The sum over arms of the reward of the state that each moves to.

    Starting State
    --------------
    Each arm independently in state 1 with probability 0.2, else in state 0.

    Episode End
    -----------
    Truncated after ``horizon`` steps, never terminated. All of this as in
    :class:`~milp_rl.envs.RestlessBandit`.

    Arguments
    ---------
    The environment's ``spec`` has them, so that what keeps it (such as a Minari data set) makes the
    same environment again; ``gymnasium.make`` takes them too.

    ```python
    make_bandit("capacity", n_arms=10, budget=3, seed=0)
    gymnasium.make("milp_rl/Bandit-v0", domain="capacity", n_arms=10, budget=3, seed=0)
    ```

    Parameters
    ----------
    domain
        ``"multiple_interventions"``, ``"path"``, ``"scheduling"``, ``"capacity"`` or ``"budget"``:
        instances of ``generate``. Or the same domains otherwise drawn:
        ``"multiple_interventions_published"`` and ``"scheduling_published"`` as the published code
        draws them, ``"multiple_interventions_grouped"`` with high rewards on the arms that respond
        to groups of interventions, ``"path_underground"`` on a fixed part of the whole Underground.
    n_arms
        Number of arms J.
    budget
        The number B: of interventions, of arms on a route, of workers, or of arms acted on.
    horizon
        Steps per episode.
    seed
        Seed of the instance; the same arguments give the same one.

    Raises
    ------
    ValueError
        If the domain is unknown or a size is out of range.
    """
    if domain not in PRESETS:
        raise ValueError(unknown("domain", domain, PRESETS))
    kind, draw = PRESETS[domain]
    _, bandit = DOMAINS[kind]
    env: RestlessBandit = bandit(draw(n_arms, budget, horizon=horizon, seed=seed))
    arguments = {
        "domain": domain,
        "n_arms": n_arms,
        "budget": budget,
        "horizon": horizon,
        "seed": seed,
    }
    env.spec = replace(gym.spec("milp_rl/Bandit-v0"), kwargs=arguments)
    return env


__all__ = [
    "DOMAINS",
    "PRESETS",
    "AdditiveBandit",
    "ArmChains",
    "Arms",
    "BanditInstance",
    "BudgetBandit",
    "BudgetInstance",
    "CapacityBandit",
    "CapacityInstance",
    "CombinatorialNavigation",
    "ConstrainedControl",
    "DynamicAssortment",
    "FeasibleActions",
    "KnownModelEnv",
    "MaskedObservation",
    "MultipleInterventionsBandit",
    "MultipleInterventionsInstance",
    "ParallelEpisodes",
    "PathBandit",
    "PathInstance",
    "RDDLEnv",
    "RestlessBandit",
    "SchedulingBandit",
    "SchedulingInstance",
    "adapted",
    "from_rddl",
    "make_bandit",
]
