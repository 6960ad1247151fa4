"""Service calls to mothers: logged weeks, values learnt from them, and plans for millions."""
