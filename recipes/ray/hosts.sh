#!/bin/bash
# A job of compt_fast over hosts that ssh reaches, one trainer a GPU, or one a processor where there are none:
#
#     HOSTS="node1 node2" bash recipes/ray/hosts.sh --suite glue --model t5-base --seeds 0,1,2 --out runs/glue
#
# This host is the head, and its devices train too. On every host `compt_fast` is installed in an environment at the
# same PLACE, with its extra `ray`, and the trunk is found under the same name or path; the run folder is on this one.
set -euo pipefail
: "${HOSTS:?name the other hosts: HOSTS=\"node1 node2\" bash recipes/ray/hosts.sh ...}"
PLACE=${PLACE:-$(dirname "$(command -v ray)")}
address=${ADDRESS:-$(hostname -I | awk '{print $1}')}:6379 # ADDRESS: where this host has several

# Whoever reaches Ray's ports can run code here: a secret that only these hosts have, and ports that no firewall opens.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')

stop() {
    for host in $HOSTS; do ssh "$host" "$PLACE/ray stop" || true; done
    "$PLACE/ray" stop
}
trap stop EXIT
"$PLACE/ray" start --head --port=6379 --include-dashboard=false
for host in $HOSTS; do
    # The secret goes in by standard input: a command line is there for every user of the host to read.
    ssh "$host" "read -r RAY_AUTH_TOKEN; export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0; \
        $PLACE/ray start --address=$address" <<<"$RAY_AUTH_TOKEN"
done
"$PLACE/python" -m compt_fast.train --ray "$address" "$@"
