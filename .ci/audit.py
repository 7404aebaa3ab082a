"""What pip-audit found, read from its JSON on stdin: an answer, or a clear word that there is none.

Where no advisory database can be reached, pip-audit skips packages and reports success. A package that was not looked
up is not known to be safe: then this ends with status 2, and one line.
"""

import json
import sys


def verdict(text: str) -> tuple[int, list[str]]:
    """Exit status, and what to print: 0 nothing known against any package, 1 something is, 2 no answer."""
    try:
        packages = json.loads(text)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 2, ["audit: NO VERDICT: pip-audit gave no answer; is an advisory database within reach?"]
    known = [
        f"{package['name']} {package['version']}: {found['id']}"
        for package in packages
        for found in package.get("vulns", [])
    ]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if known:
        return 1, known
    if skipped or not packages:
        what = f"{len(skipped)} of {len(packages)} packages were not looked up ({', '.join(skipped[:3])}, ...)"
        return 2, [f"audit: NO VERDICT: {what}; run it where the advisory database is within reach"]
    return 0, [f"audit: nothing is known against any of {len(packages)} packages"]


if __name__ == "__main__":
    status, lines = verdict(sys.stdin.read())
    print("\n".join(lines))
    sys.exit(status)
