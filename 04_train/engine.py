"""How one process trains: the seam between the loop and the many processes of 07_scale.

The loop in train.py never mentions processes; it asks an Engine. This one is for a process that is
alone, so most of it is as good as nothing; 07_scale/scale.py has the others.

Reads and writes nothing. Next: validation.py.
"""


class Engine:
    """How one process trains. The loop knows nothing else."""

    rank, world = 0, 1  # which process of how many this is
    leads = True  # this one prints and writes

    def prepare(self, model):
        """Called once, before the first step, when the weights are in place."""

    def first(self, work):
        """The result of work(), which may write files: one process does it, all get the result."""
        return work()

    def share(self, rows):
        """The part of the rows of a batch (a tensor, an array, a list) that is this process's."""
        return rows

    def sum(self, values):
        """Sum a float64 array over all processes, element by element."""
        return values

    def backward(self, loss, last):
        """Add the gradients of `loss`. `last`: the micro-batch that completes the step."""
        loss.backward()

    def close(self):
        """Called at the end."""
