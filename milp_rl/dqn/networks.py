"""The Q-network that a learner makes where none is given, and one that is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from milp_rl.arm_qnetwork import ArmQNetwork
from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.critics import Critics
from milp_rl.dqn.module_value import ModuleValue
from milp_rl.dqn.normalised import NormalisedQNetwork
from milp_rl.envs.arms import Arms
from milp_rl.formulations.networks.ensemble import Ensemble
from milp_rl.qnetwork import ActionValue, QNetwork


def new_network(
    config: DQNConfig,
    state_dim: int,
    n_actions: int,
    arms: Arms | None,
    generator: torch.Generator,
) -> ActionValue:
    """Return a new Q-network as a configuration asks for.

    Parameters
    ----------
    config
        Which, and of what size.
    state_dim, n_actions
        Lengths of states and actions.
    arms
        Which of their entries belong together; ``None``: nothing is known.
    generator
        Source of the initial weights.

    Raises
    ------
    ValueError
        If an equivariant network is asked for where arms are not known, or have no features.
    """
    c = config
    critics: list[ActionValue] = []
    for _ in range(c.critics):
        if c.architecture == "concat":
            critics.append(QNetwork(state_dim, n_actions, c.hidden, generator=generator))
        else:
            critics.append(_of_arms(c, state_dim, n_actions, arms, generator))
    network = critics[0] if c.critics == 1 else Critics(critics, c.critics_reduce)
    return NormalisedQNetwork(network) if c.normalise else network


def _of_arms(
    config: DQNConfig,
    state_dim: int,
    n_actions: int,
    arms: Arms | None,
    generator: torch.Generator,
) -> ArmQNetwork:
    equivariant = config.architecture == "equivariant"
    if arms is None:
        arms = Arms(n_actions, arm_features=0, shared_features=state_dim)
    if equivariant and not arms.arm_features:
        raise ValueError(
            "architecture='equivariant' needs arms that have features: declare them as attribute"
            " arm_layout of the environment (milp_rl.envs.arms.Arms), or give architecture='arms'"
        )
    return ArmQNetwork(
        arms.n_arms,
        arms.arm_features,
        arms.shared_features,
        arm_actions=arms.arm_actions,
        layout=arms.layout,
        encoder=config.encoder,
        head=config.head,
        identity=not equivariant,
        neighbours=None if equivariant else arms.neighbours,
        generator=generator,
    )


def own_network(
    network: nn.Module, state_dim: int, n_actions: int, critics: int = 1
) -> ActionValue:
    """Return a network that was given as what a learner trains.

    Raises
    ------
    ValueError
        If it is no torch module, or of other states or actions, or several critics are asked for.
    NetworkError
        If it cannot be trained.
    """
    found: Any = network
    if not isinstance(found, nn.Module):
        given, told = type(found).__name__, "QNetwork.from_onnx reads chains of ReLU layers"
        if isinstance(found, type):
            given, told = f"the class {found.__name__}", f"make one: {found.__name__}(...)"
        elif isinstance(found, Ensemble):
            told = "milp_rl.dqn.Critics trains several networks side by side"
        raise ValueError(
            f"network must be a torch module, which can be trained, got {given}; {told}"
        )
    if critics not in (1, len(found.members) if isinstance(found, Critics) else 1):
        raise ValueError(
            f"critics={critics} networks are trained where none is given: give network=milp_rl.dqn"
            f".Critics([...]) of {critics} of yours, and leave critics at 1"
        )
    if not isinstance(network, ActionValue):
        return ModuleValue(network, state_dim, n_actions)
    if (network.state_dim, network.action_dim) != (state_dim, n_actions):
        raise ValueError(
            f"the network takes {network.state_dim} state features and {network.action_dim}"
            f" actions, the environment has {state_dim} and {n_actions}"
        )
    return network
