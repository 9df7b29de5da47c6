#!/bin/bash
# A SLURM cluster of one node with two CPUs on this machine's loopback, for `pytest -m slurm`.
#
#   tests/slurm/cluster.sh install        installs Debian's packages (as root)
#   tests/slurm/cluster.sh start DIR      starts munged, slurmctld and slurmd, whose files are all in DIR (as root)
#   tests/slurm/cluster.sh stop DIR       stops them
#
# Clients find it by SLURM_CONF=DIR/slurm.conf. It needs neither systemd nor cgroups.
set -euo pipefail

install() {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
}

start() {
    local dir host
    dir=$(realpath -m "$1")
    host=$(hostname -s)
    mkdir -p "$dir"/{state,spool,munge}
    chmod 755 "$dir" "$dir/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
    # Ports of its own: a cluster of the machine's stays what it is.
    cat >"$dir/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
KillWait=20
MinJobAge=3600
SchedulerParameters=sched_interval=5,batch_sched_delay=0,sched_min_interval=100000
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=short Nodes=$host Default=YES MaxTime=60 State=UP
CONF
    echo "CgroupPlugin=cgroup/v1" >"$dir/cgroup.conf"
    munged --force --num-threads=1 --key-file="$dir/munge.key" --socket="$dir/munge/socket" \
        --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
    export SLURM_CONF=$dir/slurm.conf
    slurmctld -c
    slurmd -c
    for _ in $(seq 60); do
        if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then
            return
        fi
        sleep 0.5
    done
    echo "the cluster has not come up within 30 s; see the logs in $dir" >&2
    tail -n 5 "$dir"/*.log >&2
    stop "$dir"
    exit 1
}

stop() {
    local name
    for name in slurmd slurmctld munged; do
        if [[ -s $1/$name.pid ]]; then
            kill "$(cat "$1/$name.pid")" 2>/dev/null || true
        fi
    done
}

"${1:?install, start or stop}" "${@:2}"
