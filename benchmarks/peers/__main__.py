"""Environments of the peers.

python -m benchmarks.peers install [NAME ...]
python -m benchmarks.peers list
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.environments import install, installed
from benchmarks.peers.environments import PEERS


def main() -> None:
    """Install peers, or say which are there. One that cannot be installed is named, and the others go on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("install", "list"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)}; all by default")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    chosen = [PEERS[name] for name in arguments.names or PEERS]
    failed = 0
    for peer in chosen:
        if arguments.action == "install":
            print(f"{peer.name}: {peer.requirements[0]} in {peer.folder}", file=sys.stderr, flush=True)
            try:
                install(peer)
            except (subprocess.CalledProcessError, OSError) as error:
                failed += 1
                print(f"{peer.name} was not installed: {error}", file=sys.stderr, flush=True)
        print(f"{peer.name} {peer.version}: {'installed' if installed(peer) else 'not installed'}")
    sys.exit(failed == len(chosen))


if __name__ == "__main__":
    main()
