#!/usr/bin/env bash
# A real SLURM on this machine, of two nodes, to try workflow/profiles/slurm before a cluster does. Debian, as root.
#   one-machine.sh start FOLDER   installs what is missing; state and logs go to FOLDER
#   one-machine.sh stop FOLDER
# Exits with 77 and the reason where SLURM cannot run.
set -euo pipefail
action=${1:?start or stop} folder=$(realpath -m "${2:?a folder for state and logs}")
configuration=/etc/slurm/slurm.conf
mark="# Written by $(basename "$0")"

skip() { echo "no SLURM here: $1"; exit 77; }

stop() {
    for file in "$folder"/*.pid; do
        [ -f "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
    done
    if grep -qsF "$mark" "$configuration"; then rm "$configuration"; fi
}

if [ "$action" = stop ]; then stop; exit; fi
[ "$(id -u)" = 0 ] || skip "only root may start it"
if [ -e "$configuration" ]; then
    grep -qF "$mark" "$configuration" || skip "$configuration is a cluster's own"
    stop
fi
if ! command -v slurmctld slurmd srun munged > /dev/null; then
    command -v apt-get > /dev/null || skip "slurmctld is not installed, and there is no apt-get to install it with"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes slurmctld slurmd slurm-client munge; } \
        > /tmp/one-machine-slurm.log 2>&1 || skip "apt-get failed: $(tail -n 1 /tmp/one-machine-slurm.log)"
fi

mkdir -p "$folder/state" /etc/slurm
host=$(hostname -s)
cat > "$configuration" <<EOF
$mark
ClusterName=one-machine
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
# No cgroups and no accounting database: a container has neither.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MinJobAge=3600
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
NodeName=node[1-2] NodeHostname=$host Port=[17001-17002] CPUs=$(nproc) RealMemory=8000
PartitionName=all Nodes=ALL Default=YES State=UP
EOF
if ! pgrep -x munged > /dev/null; then
    mkdir -p /run/munge
    chown munge: /run/munge
    runuser -u munge -- munged
fi
slurmctld
slurmd -N node1
slurmd -N node2
for _ in $(seq 30); do
    if [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" = 2 ]; then sinfo; exit; fi
    sleep 1
done
stop
skip "the two nodes did not come up; see $folder/slurmctld.log"
