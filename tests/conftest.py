"""Settings of the whole suite, read before any test imports torch."""

import os

# One thread a process: two test workers, and the programs that they start, share two cores, and
# threads that spin at every barrier for a core that another process has make all of them slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
