"""The argmax by MILP solvers: HiGHS, Gurobi and SCIP behind one interface."""
