"""Fails if a pinned package has a known vulnerability that is fixed in another version.

A vulnerability that is listed with a reason passes. One without a fix is only printed. If no vulnerability service
answers, for example behind a mirror without one, the audit says so in one line and passes. To check that the service
knows anything, the audit also asks about a package that is known to be vulnerable.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PINNED = HERE.parent / "constraints.txt"
CANARY = HERE / "audit-canary.txt"
PATIENCE_S = 300
NO_ANSWER = ("ConnectionError", "ServiceError", "Timeout", "timed out", "ould not connect")
"""Parts of pip-audit's messages if the service does not answer."""


class Unasked(Exception):
    """No vulnerability service answered, or the service knows nothing."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ignored", type=Path, default=HERE / "audit-ignored.txt")
    listed = reasons(parser.parse_args().ignored)
    bare = [known for known, reason in listed.items() if not reason]
    if bare:
        print(f"audit: {bare[0]} has no reason; write one behind it", file=sys.stderr)
        return 2
    try:
        packages = asked()
    except Unasked as reason:
        print(f"audit: nothing was audited: {reason}")
        return 0
    audited = [package for package in packages if "vulns" in package]
    print(f"audit: {len(audited)} of {len(packages)} packages")
    found = [(package, known) for package in audited for known in package["vulns"]]
    for package, known in found:
        print(f"audit: {package['name']} {package['version']}: {known['id']}, {judged(known, listed)}")
    for known_id in listed.keys() - {known["id"] for _, known in found}:
        print(f"audit: {known_id} is listed but was not found; take it off the list")
    return int(any(known["fix_versions"] and known["id"] not in listed for _, known in found))


def reasons(file: Path) -> dict[str, str]:
    """Listed vulnerabilities and why they are let pass: one a line, the reason behind it."""
    lines = [line.strip() for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    return {known: reason.strip() for known, _, reason in (line.partition(" ") for line in lines if line)}


def asked() -> list[dict[str, Any]]:
    """What pip-audit says of every pinned package."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(PINNED), "--requirement", str(CANARY)]
    command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--desc", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        raise Unasked("the vulnerability service does not answer in time") from None
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        if any(words in done.stderr for words in NO_ANSWER):
            raise Unasked("no vulnerability service can be reached") from None
        sys.exit(f"audit: pip-audit failed: {(done.stderr.strip().splitlines() or ['without a word'])[-1]}")
    canary = CANARY.read_text().partition("==")[0]
    if not any(package.get("vulns") for package in packages if package["name"] == canary):
        raise Unasked("the service that answers keeps no vulnerabilities")
    return [package for package in packages if package["name"] != canary]


def judged(known: Mapping[str, Any], listed: Mapping[str, str]) -> str:
    if known["id"] in listed:
        return f"ignored: {listed[known['id']]}"
    return f"fixed in {', '.join(known['fix_versions'])}" if known["fix_versions"] else "not fixed yet"


sys.exit(main())
