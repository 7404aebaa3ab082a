import gc
import os

# pytest runs as many processes as there are cores: threads of their own make tiny matrices slower, not faster
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # read when the libraries are loaded, after this module

gc.disable()  # while modules are imported; conftest.py enables it again, without them
