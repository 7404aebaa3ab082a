"""What runs in the process of somebody else's model: nothing of this package is imported here, nor needed.

``python worker.py HANDLER JOB SECONDS BYTES``: reads ``rows.npz``, ``pairs.npz`` in the folder JOB; leaves
``scores.npy`` and, where the handler embeds, ``embeddings.npy`` there. A mistake of the handler ends it with one line.
"""

import resource
import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import SimpleNamespace


def limit(seconds: int, size: int) -> None:
    """Processor time, memory and files of this process and of those that it starts, each."""
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, size),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (most, most) if hard == resource.RLIM_INFINITY else (min(most, hard), hard))


def main(handler: str, job: str) -> None:
    """Fit on the rows, score the pairs, embed the users."""
    import numpy as np

    rows, pairs = (np.load(f"{job}/{name}.npz", allow_pickle=False) for name in ("rows", "pairs"))
    size = {name: int(rows[name]) for name in ("n_users", "n_items")}
    given = SimpleNamespace(user=rows["user"], item=rows["item"], time=rows["time"], **size)
    step = "reading it"
    try:
        spec = spec_from_file_location("handler", handler)
        module = module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        step = "fit"
        model = module.fit(given)
        step = "score"
        scores = np.asarray(module.score(model, pairs["user"], pairs["item"]), dtype=np.float64)
        if scores.shape != pairs["user"].shape or not np.isfinite(scores).all():
            raise ValueError(f"wants {len(pairs['user'])} finite numbers, one for each pair; gave {scores.shape}")
        np.save(f"{job}/scores.npy", scores)
        if hasattr(module, "embed"):
            step = "embed"
            found = np.asarray(module.embed(model, np.arange(given.n_users)), dtype=np.float64)
            if found.ndim != 2 or len(found) != given.n_users or not np.isfinite(found).all():
                raise ValueError(f"wants finite vectors of {given.n_users} users; gave {found.shape}")
            np.save(f"{job}/embeddings.npy", found)
    except Exception as error:
        print(f"{step}: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    limit(int(sys.argv[3]), int(sys.argv[4]))
    main(sys.argv[1], sys.argv[2])
