"""What an experiment consists of, read from TOML and checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from milp_rl.baselines.actor_critic import ActorCriticConfig
from milp_rl.dqn import DQNConfig
from milp_rl.experiments.methods import (
    ACTOR_CRITIC,
    ALGORITHMS,
    BASELINES,
    DEFAULT_METHODS,
    DOMAIN_LABELS,
    LEARNERS,
    applies,
    config_class,
)
from milp_rl.formulations.files import place_of_key, read_toml
from milp_rl.formulations.suggestions import misfit, named_in, unknown


class SettingError(ValueError):
    """A wrong setting.

    Parameters
    ----------
    message
        What is wrong.
    *keys
        The setting, after the tables that it is in.
    """

    def __init__(self, message: str, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys


@dataclass(frozen=True)
class Cell:
    """One method on one instance: what is run in one piece.

    Parameters
    ----------
    domain, n_arms, budget, seed
        The instance; the seed is also that of training and of drawn actions.
    method
        Name of the method.
    horizon
        Steps per episode.
    episodes
        Episodes of evaluation.
    validate_every, validation_episodes
        Passed to :class:`milp_rl.dqn.Validation`, for learners.
    algorithm, dqn
        The learner's algorithm and parameters; ``None`` for a method that does not learn.
    of
        The method whose trained network it plays, instead of training one.
    """

    domain: str
    n_arms: int
    budget: int
    seed: int
    method: str
    horizon: int
    episodes: int
    validate_every: int
    validation_episodes: int
    algorithm: str | None
    dqn: DQNConfig | ActorCriticConfig | None
    of: str | None = None

    @property
    def name(self) -> str:
        """Its name, which is also that of its files."""
        return f"{self.instance}-{self.method}"

    @property
    def instance(self) -> str:
        """What its instance is called in names of files."""
        return f"{self.domain}-J{self.n_arms}-B{self.budget}-seed{self.seed}"

    @property
    def network(self) -> str:
        """Name of the cell that trains its network."""
        return f"{self.instance}-{self.method if self.of is None else self.of}"

    @property
    def settings(self) -> dict[str, Any]:
        """All parameters, as JSON has them."""
        settings = asdict(self)
        if isinstance(self.dqn, DQNConfig):
            for name in ("hidden", "encoder", "head"):
                settings["dqn"][name] = list(settings["dqn"][name])
        return settings


@dataclass(frozen=True)
class ExperimentConfig:
    """Methods over domains, sizes and seeds.

    Parameters
    ----------
    domains
        Names of domains, see :func:`milp_rl.experiments.methods.environment`.
    sizes
        Pairs (J, B); they mean nothing to the pendulums.
    seeds
        Seeds of instances, nonnegative.
    methods
        Names of baselines, ``"iterative_dqn"``, ``"sequoia"``, ``"sequoia_arms"`` (with the network
        of arms and the defaults), ``"flat_dqn"`` (one output for each feasible action),
        ``"graphq"``, ``"graphq_beam"``, ``"dnc"``, ``"wolpertinger"``, ``"dqn_exact"``,
        ``"dqn_gradient"``, ``"dqn_cem"``, ``"iterative_dqn_published"`` and ``"greedy_on_arms"``
        (greedy building on the networks that SEQUOIA trained, of the method's own cells) and names
        in ``learners``. A baseline that a domain does not have is left out there. By default all
        baselines of bandits, iterative DQN and SEQUOIA.
    horizon
        Steps per episode.
    episodes
        Episodes of evaluation, at least 2 (for a standard error).
    preset
        The learners' parameters: ``"restless"``, those of :meth:`milp_rl.dqn.DQNConfig.restless`;
        ``"default"``, those of any other environment; or ``"paper"``, the published ones.
    dqn
        Parameters of :class:`milp_rl.dqn.DQNConfig` that differ from the preset, for all learners
        but those of ``"actor_critic"``.
    learners
        Further learners, or changes of known ones: by name, parameters that differ from those of
        SEQUOIA, among them ``preset``, ``algorithm`` (``"dqn"``, ``"flat_dqn"``, ``"graphq"`` or
        ``"actor_critic"``, :class:`milp_rl.baselines.actor_critic.ActorCriticConfig`), and ``of``:
        the learner whose trained network is played with these parameters, as for another solver.
    validate_every, validation_episodes
        A learner plays so many validation episodes every so many episodes of training; the
        network that plays them best is evaluated.

    Raises
    ------
    ValueError
        If a name is unknown or a value is out of range.
    """

    domains: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    seeds: Sequence[int]
    methods: Sequence[str] = DEFAULT_METHODS
    horizon: int = 20
    episodes: int = 50
    preset: Literal["restless", "default", "paper"] = "restless"
    dqn: Mapping[str, Any] = field(default_factory=dict)
    learners: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    validate_every: int = 10
    validation_episodes: int = 50

    def __post_init__(self) -> None:
        for name in ("domains", "sizes", "seeds", "methods"):
            values = getattr(self, name)
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise SettingError(
                    f"{name} must be a list with at least one entry, got {values!r}", name
                )
            if len({str(value) for value in values}) < len(values):
                raise SettingError(f"{name} has an entry twice: {values!r}", name)
        self._check_learners()
        _check_known("domain", self.domains, DOMAIN_LABELS, "domains")
        _check_known("method", self.methods, {**BASELINES, **LEARNERS, **self.learners}, "methods")
        for size in self.sizes:
            pair = not isinstance(size, str) and isinstance(size, Sequence) and len(size) == 2
            if not pair or not all(_is_count(n, 1) for n in size) or size[0] < size[1]:
                raise SettingError(
                    f"sizes are pairs [J, B] with 1 <= B <= J, got {size!r}", "sizes"
                )
        for seed in self.seeds:
            if not _is_count(seed, 0):
                raise SettingError(f"seeds are integers of at least 0, got {seed!r}", "seeds")
        for name, smallest in (
            ("horizon", 1),
            ("episodes", 2),
            ("validate_every", 1),
            ("validation_episodes", 1),
        ):
            value = getattr(self, name)
            if not _is_count(value, smallest):
                raise SettingError(
                    f"{name} must be an integer of at least {smallest}, got {value!r}", name
                )
        _check_preset(self.preset, "preset")
        for name in {**LEARNERS, **self.learners}:
            self.learner(name)
        for name in self.methods:
            if (of := self.trained_by(name)) is not None and of not in self.methods:
                raise SettingError(
                    f"{name!r} plays the network of {of!r}: add that to methods", "methods"
                )

    def _check_learners(self) -> None:
        """Check that there are tables of names that learners may have."""
        if not isinstance(self.dqn, Mapping):
            raise SettingError(f"dqn must be a table of parameters, got {self.dqn!r}", "dqn")
        if not isinstance(self.learners, Mapping):
            raise SettingError(
                f"learners must be a table of learners, got {self.learners!r}", "learners"
            )
        for name, changes in self.learners.items():
            place = ("learners", name)
            if name in BASELINES:
                raise SettingError(f"a learner of one's own cannot be named {name!r}", *place)
            if not name.replace("_", "").isalnum():
                raise SettingError(
                    f"a learner's name is letters, digits and _, got {name!r}", *place
                )
            if not isinstance(changes, Mapping):
                raise SettingError(
                    f"learner {name!r} must be a table of parameters, got {changes!r}", *place
                )

    @classmethod
    def from_toml(cls, path: str | Path) -> ExperimentConfig:
        """Read a file whose keys are the parameters.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not TOML, a key is unknown or missing, or a value is wrong: says on which
            line.
        """
        data = read_toml(path)
        names = [f.name for f in fields(cls)]
        for name in data:
            if name not in names:
                raise ValueError(f"{place_of_key(path, name)}: {unknown('key', name, names)}")
        if missing := sorted({"domains", "sizes", "seeds"} - set(data)):
            raise ValueError(f"{path}: {missing[0]!r} is missing")
        if isinstance(data["sizes"], list):
            pairs = [tuple(size) if isinstance(size, list) else size for size in data["sizes"]]
            data["sizes"] = pairs
        try:
            return cls(**data)
        except SettingError as error:
            raise ValueError(f"{place_of_key(path, *error.keys)}: {error}") from error

    def trained_by(self, name: str) -> str | None:
        """Return the method whose network a method plays, if it is not its own."""
        of: str | None = self._changes(name).get("of")
        return of

    def learner(self, name: str) -> tuple[str, DQNConfig | ActorCriticConfig]:
        """Return the algorithm of a learner and its parameters."""
        table = ("learners", name)
        of = self.trained_by(name)
        if of is not None:
            _check_known("learner", [of], {**LEARNERS, **self.learners}, *table, "of")
            if self.trained_by(of) is not None:
                raise SettingError(
                    f"learner {name!r}: {of!r} trains no network of its own", *table, "of"
                )
        changes = {**({} if of is None else self._changes(of)), **self._changes(name)}
        changes.pop("of", None)
        preset = _check_preset(changes.pop("preset", self.preset), *table, "preset")
        algorithm = changes.pop("algorithm", "dqn")
        _check_known("algorithm", [algorithm], (*ALGORITHMS, ACTOR_CRITIC), *table, "algorithm")
        kind = config_class(algorithm)
        make: Callable[..., DQNConfig | ActorCriticConfig] = kind
        names = [f.name for f in fields(kind)]
        for key in changes:
            if key not in names:
                said = unknown("parameter", key, [*names, "algorithm", "of", "preset"])
                raise SettingError(f"learner {name!r}: {said}", *table, key)
        parameters = changes
        if issubclass(kind, DQNConfig):
            parameters = {**self.dqn, **changes}
            if preset != "default":
                make = kind.paper if preset == "paper" else kind.restless
        try:
            return algorithm, make(**parameters)
        except (TypeError, ValueError) as error:
            said = misfit(kind, error) if isinstance(error, TypeError) else str(error)
            named = named_in(said, parameters)
            if named is not None and named not in changes:
                raise SettingError(f"dqn: {said}", "dqn", named) from error
            place = table if named is None else (*table, named)
            raise SettingError(f"learner {name!r}: {said}", *place) from error

    def _changes(self, name: str) -> dict[str, Any]:
        return {**LEARNERS.get(name, {}), **self.learners.get(name, {})}

    def cells(self) -> list[Cell]:
        """List the cells: largest instances first, seed by seed, learners before the others.

        The ones that take longest then do not end up alone on one processor, and a run that is
        stopped early has finished whole instances.
        """

        def learner(method: str) -> tuple[str | None, DQNConfig | ActorCriticConfig | None]:
            return (None, None) if method in BASELINES else self.learner(method)

        found = [
            Cell(
                domain,
                n_arms,
                budget,
                seed,
                method,
                self.horizon,
                self.episodes,
                self.validate_every,
                self.validation_episodes,
                *learner(method),
                of=self.trained_by(method),
            )
            for seed in self.seeds
            for domain in self.domains
            for n_arms, budget in self.sizes
            for method in self.methods
            if applies(method, domain)
        ]

        def place(cell: Cell) -> tuple[Any, ...]:
            untrained = cell.dqn is None or cell.of is not None
            seed, domain = self.seeds.index(cell.seed), self.domains.index(cell.domain)
            return -cell.n_arms, seed, domain, untrained

        return sorted(found, key=place)


def _check_preset(preset: Any, *keys: str) -> str:
    if preset not in ("restless", "default", "paper"):
        raise SettingError(
            f"preset must be 'restless', 'default' or 'paper', got {preset!r}", *keys
        )
    return str(preset)


def _check_known(kind: str, names: Sequence[Any], known: Collection[str], *keys: str) -> None:
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise SettingError(unknown(kind, name, known), *keys)


def _is_count(value: Any, smallest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= smallest
