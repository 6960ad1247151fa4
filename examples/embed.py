"""A learned value inside your own Pyomo model: home visits with travel costs.

Twelve patients, three nurses. A network has learned from records how much health a *set* of visits
is worth (patients of one household share the benefit, so the sets' values do not add up). The
model below is the planner's own: who visits whom, at what travel cost. The network is one block of
it, the budget of visits another.
"""

import numpy as np
import pyomo.environ as pyo
import torch

import milp_rl as mr

N_PATIENTS, N_NURSES, VISITS_A_NURSE = 12, 3, 3


def health_gain(visits: np.ndarray, severity: np.ndarray) -> np.ndarray:
    """Return the true gain: of two visits to one household, the second is worth less.

    Patients 2i and 2i + 1 share a household.
    """
    own = visits * severity
    pairs = own.reshape(*own.shape[:-1], N_PATIENTS // 2, 2)
    return np.asarray(own.sum(-1) - 0.6 * pairs.min(-1).sum(-1))


def learned_value(rng: np.random.Generator) -> mr.QNetwork:
    """Fit a Q-network to recorded (visits, severity, gain)."""
    visits = (rng.random((4000, N_PATIENTS)) < 0.5).astype(np.float32)
    severity = rng.random((4000, N_PATIENTS)).astype(np.float32)
    gain = torch.from_numpy(health_gain(visits, severity).astype(np.float32))
    x = torch.from_numpy(np.concatenate([visits, severity], axis=1))  # [action, state]
    network = mr.QNetwork(
        state_dim=N_PATIENTS,
        action_dim=N_PATIENTS,
        hidden=(32, 16),
        generator=torch.Generator().manual_seed(0),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(800):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(x)[:, 0], gain).backward()
        optimizer.step()
    return network


def main() -> None:
    """Train the value, build the planner's model around it, solve it and print the plan."""
    rng = np.random.default_rng(0)
    q_network = learned_value(rng)
    severity = rng.random(N_PATIENTS)
    patients, nurses = rng.random((N_PATIENTS, 2)), rng.random((N_NURSES, 2))
    distance = np.linalg.norm(patients[:, None] - nurses[None], axis=2)

    m = pyo.ConcreteModel()
    space = mr.BudgetTopK(n_actions=N_PATIENTS, k=7)
    m.visit = pyo.Block()
    visit = space.add_to(m.visit)  # twelve binary variables
    m.value = pyo.Block()
    value = mr.add_network(m.value, mr.to_network(q_network), [*visit, *severity], space=space)

    m.assign = pyo.Var(range(N_PATIENTS), range(N_NURSES), domain=pyo.Binary)
    m.one_nurse = pyo.Constraint(
        range(N_PATIENTS), rule=lambda m, i: sum(m.assign[i, :]) == visit[i]
    )
    m.working_day = pyo.Constraint(
        range(N_NURSES), rule=lambda m, j: sum(m.assign[:, j]) <= VISITS_A_NURSE
    )
    m.travel = pyo.Expression(expr=sum(float(distance[i, j]) * m.assign[i, j] for i, j in m.assign))
    m.objective = pyo.Objective(expr=value - m.travel, sense=pyo.maximize)

    result = mr.solve_model(m, solver="highs")
    print(f"{result.status}: value - travel = {result.value:.4f} in {result.seconds:.2f} s")
    for j in range(N_NURSES):
        day = [i for i in range(N_PATIENTS) if pyo.value(m.assign[i, j]) > 0.5]
        print(f"nurse {j} visits patients {day}, travel {distance[day, j].sum():.3f}")
    chosen = np.array([pyo.value(v) for v in visit])
    print(
        f"learned value {pyo.value(value):.4f}, true gain {health_gain(chosen, severity):.4f},"
        f" travel {pyo.value(m.travel):.4f}"
    )


if __name__ == "__main__":
    main()
