# shellcheck shell=bash
# Parts that the measurements in a lab share: processes on its hosts, what they use, an origin and a cluster of agents.
# Sourced by scripts beside it, which name themselves PROGRAM and set `id` (the lab's), `binary` (hawker) and `run` (the
# directory of the run at hand).

# shellcheck disable=SC2154 # id, binary and run are the script's
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly SCRIPTS
services=() clients=()

fail() {
    echo "$PROGRAM: $1" >&2
    exit "${2:-1}"
}

need() {
    command -v "$1" >/dev/null || fail "$1 is missing; install the package $2"
}

within() { ip netns exec "hawker-$id-$1" "${@:2}"; }
address_of() { "$SCRIPTS/lab" address "$1" --id "$id"; }
now() { echo "${EPOCHREALTIME/,/.}"; }

# A process that lives through a run: its CPU is read from /proc, and it is ended by its number. `exec`, or the number
# would be that of a shell that waits for it.
start_service() {
    local out=$1 err=$2 host=$3
    shift 3
    (exec ip netns exec "hawker-$id-$host" "$@" >"$out" 2>"$err" </dev/null) &
    services+=($!)
}

end_services() {
    ((${#services[@]})) || return 0
    kill "${services[@]}" 2>/dev/null || true
    wait "${services[@]}" 2>/dev/null || true
    services=()
}

# Seconds of CPU that the services have used, all threads, user and system.
services_cpu() {
    local pid ticks=0 fields
    for pid in "${services[@]}"; do
        # The name in parentheses may hold spaces; what follows it does not.
        fields=$(<"/proc/$pid/stat")
        read -ra fields <<<"${fields##*) }"
        ticks=$((ticks + fields[11] + fields[12]))
    done
    awk -v ticks="$ticks" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f\n", ticks / hz }'
}

# Seconds in which the machine's cores worked, for whomever, since it started.
machine_cpu() {
    awk -v hz="$(getconf CLK_TCK)" '$1 == "cpu" { printf "%.2f\n", ($2 + $3 + $4 + $7 + $8) / hz; exit }' /proc/stat
}

# A process that brings content to one host: it is waited for, and its CPU is what `time` says.
start_client() {
    local log=$1 host=$2
    shift 2
    {
        TIMEFORMAT='%U %S'
        time within "$host" "$@" >"$log.out" 2>"$log.err" </dev/null
    } 2>"$log.cpu" &
    clients+=($!)
}

wait_for_clients() {
    local pid
    for pid in "${clients[@]}"; do
        wait "$pid" || fail "a client failed: $(tail -n 3 "$run"/*.err)"
    done
    clients=()
}

until_true() {
    local what=$1 deadline=$((SECONDS + 30))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || fail "$what takes too long; see $run"
        sleep 0.05
    done
}

# nginx on the host `origin`, one process: ADDRESS:PORT of it, a file that it has, and what it serves. Its log in $run/access.log
# says `METHOD URI STATUS BODY_BYTES`, of every request that has ended.
start_nginx() {
    local address=$1 probe=$2 server=$3
    cat >"$run/nginx.conf" <<TEXT
daemon off; master_process off; pid $run/nginx.pid; error_log $run/nginx.log; user root;
events { worker_connections 1024; }
http {
    sendfile on; tcp_nopush on; keepalive_requests 1000000000;
    log_format parts '\$request_method \$uri \$status \$body_bytes_sent "\$http_range" \$msec \$request_time \$remote_addr'; access_log $run/access.log parts;
    server { listen $address; $server }
}
TEXT
    start_service "$run/nginx.out" "$run/nginx.err" origin nginx -c "$run/nginx.conf"
    until_true "nginx" within origin curl -sfI -o /dev/null "http://$address$probe"
    until_true "nginx's log" test -s "$run/access.log"
    : >"$run/access.log"
}

# A registry of DIRECTORY/v2 as nginx serves it.
start_registry() {
    start_nginx "$1" /v2/ "
        root $2; default_type application/octet-stream;
        location = /v2/ { return 200 '{}'; }
        location ~ /manifests/ {
            default_type application/vnd.oci.image.manifest.v1+json;
            add_header Docker-Content-Digest '$3';
        }"
}

# A request is logged when nginx has ended it, which is a moment after the client has.
access_log() {
    sleep 0.2
    cat "$run/access.log"
}

start_scheduler() {
    openssl rand -hex 32 >"$run/cluster.key"
    chmod 600 "$run/cluster.key"
    start_service "$run/scheduler.out" "$run/scheduler.err" "$1" "$binary" scheduler \
        --listen "$(address_of "$1"):7300" --data-dir "$run/scheduler" --cluster-key "$run/cluster.key"
}

is_connected() {
    "$binary" status --json --socket "$run/$1.sock" 2>/dev/null |
        jq -e '.scheduler.is_connected' >/dev/null
}

# An agent on each HOST..., with the scheduler on host SCHEDULER, all of them connected when this returns. All hosts share this
# machine's cores: an agent has one shard. ARGUMENTS is an array's name.
start_agents() {
    local engine=$1 scheduler=$2 host
    local -n arguments=$3
    shift 3
    start_scheduler "$scheduler"
    for host in "$@"; do
        start_service "$run/agent-$host.out" "$run/agent-$host.err" "$host" env HAWKER_NO_GUARD=true "$binary" agent \
            --engine "$engine" --shards 1 --limit-disk 8GiB --scheduler "http://$(address_of "$scheduler"):7300" \
            --advertise "$(address_of "$host")" --data-dir "$run/data-$host" --socket "$run/$host.sock" \
            --cluster-key "$run/cluster.key" "${arguments[@]}"
    done
    for host in "$@"; do until_true "agent $host" is_connected "$host"; done
}

# What every script that measures in a lab needs.
need_lab() {
    [[ $EUID == 0 ]] || fail "network namespaces need root"
    [[ -x $binary ]] || fail "$binary is no program; build it: cargo build --release -p hawker"
    # nginx stands where only root's PATH looks.
    PATH=$PATH:/usr/sbin:/sbin
    need ip iproute2
    need nginx nginx
    need curl curl
    need jq jq
    need openssl openssl
    binary=$(realpath "$binary")
    local name
    for name in ${!HAWKER_@}; do unset "$name"; done
}

# The directory WORK, or a new one; nginx's worker and the agents must be able to read it whoever made it.
open_work() {
    work=${1:-$(mktemp -d)}
    mkdir -p "$work"
    work=$(realpath "$work")
    [[ ! -e $work/runs ]] || fail "$work is in use"
    chmod 755 "$work"
    : >"$work/runs"
}
