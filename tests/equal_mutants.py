"""Changes to exercises that change nothing that anyone can see, and why. bench_mutants.py leaves
them out.
"""

EQUAL = {  # {file: {(exercise, change): reason}}
}
