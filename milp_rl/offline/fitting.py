"""Learning a policy from logged transitions, with the feasible set known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from milp_rl.dqn.cached_argmax import CachedArgmax
from milp_rl.dqn.choosers import Chooser, ExactChooser, chooser_of
from milp_rl.dqn.config import DQNConfig
from milp_rl.dqn.networks import new_network, own_network
from milp_rl.dqn.normalised import NormalisedQNetwork
from milp_rl.envs.arms import Arms
from milp_rl.envs.fixed_set import shown
from milp_rl.envs.observed import unresolved
from milp_rl.envs.state_sets import StateSets
from milp_rl.envs.transitions import Transitions
from milp_rl.formulations.arrays import ActionArray, FloatArray, check_vector
from milp_rl.formulations.checks import LARGEST_SEED, check_integer
from milp_rl.formulations.spaces.base import ActionSpace
from milp_rl.offline.additive import BernoulliPolicy, fit_policy
from milp_rl.offline.config import OfflineConfig
from milp_rl.offline.learners import ConservativeLearner, ImplicitLearner, OfflineLearner
from milp_rl.offline.support import Feasible, LoggedSets, SupportedSets, log_ratios
from milp_rl.qnetwork import ActionValue

_COARSEST = 0.01  # of a feature's deviation, up to which the steps of float32 do not matter
_LEARNERS: dict[str, type[OfflineLearner]] = {
    "dqn": OfflineLearner,
    "cql": ConservativeLearner,
    "iql": ImplicitLearner,
}


class OfflinePolicy:
    """Decides by the exact argmax of a value that was learnt from logged decisions.

    Parameters
    ----------
    network
        The value: a Q-network, or of an imitation the log-likelihood.
    sets
        The feasible set of each state, possibly cut down to a behaviour's support.
    chooser
        What finds the network's best actions.
    behaviour
        The behaviour model, if there is one.
    losses
        The loss of each update, if there were any.
    """

    def __init__(
        self,
        network: ActionValue,
        sets: StateSets,
        chooser: Chooser,
        *,
        behaviour: BernoulliPolicy | None = None,
        losses: list[float] | None = None,
    ) -> None:
        self.network = network
        self.sets = sets
        self.behaviour = behaviour
        self.losses = [] if losses is None else losses
        self._argmax = CachedArgmax(network, chooser, 100_000, sets)

    def act(self, state: ArrayLike) -> ActionArray:
        """Return the feasible, supported action of highest value.

        Parameters
        ----------
        state
            Shape (state_dim,), finite.
        """
        return np.asarray(self.actions(check_vector(state, "state")[None])[0])

    def actions(self, states: NDArray[Any]) -> ActionArray:
        """Return the action of each state, shape (n, n_actions), of states (n, state_dim)."""
        rows = np.asarray(states, dtype=np.float32)
        return np.asarray(self._argmax.actions(rows))

    def action_space_block(self, state: ArrayLike) -> ActionSpace:
        """Return the actions that are chosen from in a state."""
        return self.sets.in_state(check_vector(state, "state").astype(np.float32))


def fit(
    transitions: Transitions,
    feasible: Feasible | None = None,
    config: OfflineConfig | None = None,
    *,
    dqn: DQNConfig | None = None,
    network: nn.Module | None = None,
    arms: Arms | None = None,
    seed: int = 0,
) -> OfflinePolicy:
    """Learn a policy from logged transitions; no environment is played.

    Parameters
    ----------
    transitions
        The logged decisions.
    feasible
        The feasible set, or a function that gives that of a state; by default
        ``transitions.feasible``.
    config
        What is learnt; by default implicit Q-learning.
    dqn
        Discount, optimizer, batches, targets and solver of the Q-network: by default those of
        ``DQNConfig``, with a step size of 1e-3. What is about playing and replay is not used.
    network
        The Q-network, trained in place, as for :class:`~milp_rl.dqn.DQNAgent`; by default a new one
        as ``dqn`` says, normalised.
    arms
        Which entries of states and actions belong together, for that new network.
    seed
        Seed of weights and batches, at least 0.

    Returns
    -------
    OfflinePolicy
        Acts by the exact argmax of the network, ``policy.network``.

    Raises
    ------
    ValueError
        If there is no feasible set, a logged action is not in its state's, network or arms do not
        fit, or a behaviour model is asked for and actions are not binary.

    Examples
    --------
    >>> import numpy as np
    >>> from milp_rl.envs import make_bandit
    >>> from milp_rl.envs.transitions import collect_transitions
    >>> env = make_bandit("budget", 6, 2, seed=0)
    >>> logged = collect_transitions(env, 200, np.random.default_rng(0))
    >>> policy = fit(logged, config=OfflineConfig(method="iql", updates=20))
    >>> env.action_space_block().violations(policy.act(logged.states[0]))
    []
    """
    c = OfflineConfig() if config is None else config
    seed = check_integer(seed, "seed", 0, LARGEST_SEED)
    d = DQNConfig(pretrain_epochs=0, learning_rate=1e-3) if dqn is None else dqn
    t = transitions
    given = t.feasible if feasible is None else feasible
    if given is None:
        raise ValueError(
            "the transitions come without a feasible set: give the action space, or a function of"
            " the state that returns one, as feasible"
        )
    sets = LoggedSets(given, t.states[0].astype(np.float32))
    check_logged(t, sets)
    sizes = t.states.shape[1], t.actions.shape[1]
    if network is not None:
        trained = own_network(network, *sizes, d.critics)
    else:
        if arms is not None and (arms.state_dim, arms.n_actions) != sizes:
            raise ValueError(
                f"the arms have {arms.state_dim} state features and {arms.n_actions} actions, the"
                f" transitions {sizes[0]} and {sizes[1]}"
            )
        generator = torch.Generator().manual_seed(seed)
        trained = new_network(d, *sizes, arms, generator)
        if isinstance(trained, NormalisedQNetwork):
            lower = np.minimum(sets.space.lower, t.actions.min(axis=0))  # sets may differ by state
            upper = np.maximum(sets.space.upper, t.actions.max(axis=0))
            trained.normalise(t.states, t.rewards, arms, (lower, upper))
    return fit_network(trained, t, sets, c, d, chooser_of(sets.space, d), seed=seed)


def fit_network(
    network: ActionValue,
    transitions: Transitions,
    sets: StateSets,
    config: OfflineConfig,
    dqn: DQNConfig,
    chooser: Callable[[ActionValue], Chooser],
    *,
    seed: int,
) -> OfflinePolicy:
    """Train a network in place; :func:`fit` without its checks."""
    c, t = config, transitions
    imitated = c.method == "bc"
    behaviour = None
    if imitated or c.support != "none":
        behaviour = fit_policy(
            t.states, t.actions, hidden=c.behaviour_hidden, epochs=c.behaviour_epochs, seed=seed
        )
    own = sets
    if behaviour is not None and c.support != "none":
        own = supported(sets, behaviour, t, c)
    if imitated:
        assert behaviour is not None
        return _imitating(behaviour, own)
    rng = np.random.default_rng([seed, 53])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these networks are too small to share among threads
    try:
        learner = _LEARNERS[c.method](network, own, c, dqn, chooser, t, rng)
        losses = learner.run()
    finally:
        torch.set_num_threads(threads)
    if isinstance(learner, ImplicitLearner) and c.extraction == "regression":
        policy = fit_policy(
            t.states,
            t.actions,
            weights=learner.weights(),
            hidden=c.behaviour_hidden,
            epochs=c.behaviour_epochs,
            seed=seed + 1,
        )
        return _imitating(policy, own, losses)
    return OfflinePolicy(network, own, chooser(network), behaviour=behaviour, losses=losses)


def supported(
    sets: StateSets, behaviour: BernoulliPolicy, transitions: Transitions, config: OfflineConfig
) -> SupportedSets:
    """Return the sets cut down as a configuration asks for.

    The factor of ``"likelihood"`` is the one that ``support_share`` of the logged actions pass.
    """
    if config.support == "hamming":
        return SupportedSets(sets, behaviour, distance=config.support_distance)
    t = transitions
    uncut = SupportedSets(sets, behaviour)
    ratios = log_ratios(uncut, t.states, t.actions)
    delta = float(np.quantile(ratios, config.support_share))
    return SupportedSets(sets, behaviour, log_ratio=max(delta, 0.0))


def _imitating(
    policy: BernoulliPolicy, sets: StateSets, losses: list[float] | None = None
) -> OfflinePolicy:
    chooser = ExactChooser(policy, sets.space)
    return OfflinePolicy(policy, sets, chooser, behaviour=policy, losses=losses)


def check_logged(transitions: Transitions, sets: StateSets) -> None:
    """Raise ``ValueError`` unless every logged action is in its state's feasible set.

    And where states have no features, or such that float32, in which they are kept, cannot hold.
    """
    t = transitions
    _check_features(np.concatenate([t.states, t.next_states]))
    n = sets.space.n_actions
    if t.actions.shape[1] != n:
        raise ValueError(
            f"the logged actions have {t.actions.shape[1]} variables, the feasible set {n}: a"
            " choice among several is that many variables, of which one is 1"
            " (milp_rl.envs.adapted(env).action_vector(action))"
        )
    unlike = sets.space.outside_domains(t.actions)  # all sets have variables of the same kinds
    if unlike.any():
        i = int(unlike.any(axis=1).argmax())
        try:
            sets.space.check_action(t.actions[i])
        except ValueError as error:
            raise ValueError(f"row {i} of the log: {error}") from error
    spaces = sets.in_states(t.states.astype(np.float32))
    if spaces is None:
        wrong = np.flatnonzero(~sets.space.feasible(t.actions))
    else:
        pairs = zip(spaces, t.actions, strict=True)
        wrong = np.flatnonzero([bool(space.violations(action)) for space, action in pairs])
    if len(wrong):
        i = int(wrong[0])
        space = sets.in_state(t.states[i].astype(np.float32))
        raise ValueError(
            f"the action of row {i}, {shown(t.actions[i])} in state {shown(t.states[i])}, is not"
            f" feasible: {'; '.join(space.violations(t.actions[i]))}"
        )


def _check_features(states: FloatArray) -> None:
    if not states.shape[1]:
        raise ValueError(
            "the logged states have no features: where nothing is observed, give all the same one,"
            " such as 0"
        )
    found = unresolved(states, "the logged states", _COARSEST)
    if found:
        raise ValueError(found)
