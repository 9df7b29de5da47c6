#!/usr/bin/env bash
# Runs jaxtickets on a Cloud TPU, one VM or a pod of several, with Google's `gcloud`. See `launch/tpu_vm.sh --help`.
set -euo pipefail

usage() {
    cat <<'HELP'
Usage: launch/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [OPTIONS] [-- ARGUMENTS]

Commands, in the order of their use:
  create    create the TPU and wait until it is ready     needs --type and --version
  install   copy the last commit of this repository to every worker and install it there
  run       start the command on every worker             needs arguments after --
  attach    show the log of the first worker
  stop      ask the run to save its state and end
  resume    after a preemption: delete, create, install and run again
  fetch     copy the workdirs of the first worker here, into ./runs/
  delete    delete the TPU

Options:
  --name=NAME        the TPU's name
  --zone=ZONE        such as us-central2-b
  --project=PROJECT  by default gcloud's own
  --type=TYPE        the accelerator type, such as v4-8 or v5litepod-8
  --version=VERSION  the software version, such as tpu-ubuntu2204-base or v2-alpha-tpuv5-lite
  --spot             create a TPU that can be preempted, at a lower price
  --bucket=gs://...  keep ./runs of the first worker there, which writes the workdirs: saved every five minutes and at
                     the end of a run, brought back by `run` where there is no ./runs
  --dry_run          print the commands, run nothing

The arguments after -- are those of `python -m jaxtickets.main`, which every worker runs:
  launch/tpu_vm.sh run --name=t --zone=us-central2-b -- --config=configs/gan_celeba.py --workdir=runs/gan
HELP
}

fail() {
    echo "tpu_vm.sh: $1" >&2
    exit 2
}

command=${1:-}
case $command in
    create | install | run | attach | stop | resume | fetch | delete) shift ;;
    -h | --help | help) usage; exit 0 ;;
    "") usage >&2; exit 2 ;;
    *) fail "$command: allowed are create, install, run, attach, stop, resume, fetch and delete" ;;
esac

name='' zone='' project='' type='' version='' bucket='' spot=false dry_run=false
while (($#)); do
    case $1 in
        --name=*) name=${1#*=} ;;
        --zone=*) zone=${1#*=} ;;
        --project=*) project=${1#*=} ;;
        --type=*) type=${1#*=} ;;
        --version=*) version=${1#*=} ;;
        --bucket=*) bucket=${1#*=} ;;
        --spot) spot=true ;;
        --dry_run) dry_run=true ;;
        --) shift; break ;;
        *) fail "$1: no such option; --help lists them, and the arguments of jaxtickets stand after --" ;;
    esac
    shift
done

need() {  # need OPTION VALUE
    [[ -n $2 ]] || fail "$1: $command needs it"
}

need --name "$name"
need --zone "$zone"
case $command in create | resume) need --type "$type"; need --version "$version" ;; esac
case $command in run | resume) (($#)) || fail "--: $command needs the arguments of jaxtickets after it" ;; esac
[[ $command != resume || -n $bucket ]] || fail "--bucket: resume needs it, because a deleted TPU's disk is lost"
[[ $name =~ ^[a-z][a-z0-9-]*$ ]] || fail "--name=$name: allowed are lower-case letters, digits and -, a letter first"
[[ -z $bucket || $bucket =~ ^gs://[A-Za-z0-9][A-Za-z0-9._/-]*$ ]] ||
    fail "--bucket=$bucket: allowed is gs:// with letters, digits and . _ - / after it"
$dry_run || command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk"

where=("--zone=$zone" ${project:+"--project=$project"} --quiet)
root=$(cd "$(dirname "$0")/.." && pwd)

do_() {  # Runs a command, or prints it so that a shell could run it.
    if $dry_run; then
        (IFS=' '; printf '%s\n' "${*@Q}")
    else
        "$@"
    fi
}

tpu() {
    local verb=$1
    shift
    do_ gcloud compute tpus tpu-vm "$verb" "$@" "${where[@]}"
}

on() {  # on WORKER SCRIPT: runs a script on a worker, a number or "all".
    tpu ssh "$name" "--worker=$1" "--command=$2"
}

create() {
    local options=("--accelerator-type=$type" "--version=$version")
    if $spot; then options+=(--spot); fi
    tpu create "$name" "${options[@]}"
}

# shellcheck disable=SC2016  # The script is the worker's.
install() {
    local archive=jaxtickets.tar.gz
    [[ -z $(git -C "$root" status --porcelain) ]] ||
        echo "tpu_vm.sh: the last commit is sent; there are changes that are not committed, which are not sent" >&2
    if ! $dry_run; then
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        archive=$folder/$archive
    fi
    do_ git -C "$root" archive --format=tar.gz "--output=$archive" HEAD
    tpu scp "$archive" "$name:jaxtickets.tar.gz" --worker=all
    on all 'set -e
mkdir -p jaxtickets && tar -xzf jaxtickets.tar.gz -C jaxtickets && cd jaxtickets
command -v uv > /dev/null || python3 -m pip install --quiet --user uv
export PATH=$HOME/.local/bin:$PATH
test -d ~/venv || uv venv --quiet --python 3.11 ~/venv
uv pip install --quiet --python ~/venv/bin/python -e ".[tpu,datasets]"
~/venv/bin/python -c "import jax; print(jax.local_device_count(), \"devices of\", jax.device_count())"'
}

# Brings the workdirs back to the first worker, which alone writes them, unless it has some: those are newer. Only if the
# bucket says that there are none a run begins anew.
bring_back() {
    on 0 "cd jaxtickets && mkdir -p runs && rm -rf restored && mkdir restored
test -z \"\$(ls -A runs)\" || { echo 'runs/ is there: nothing is brought back'; exit 0; }
if said=\$(gcloud storage ls $saved 2>&1); then
    gcloud storage cp $saved saved.tar && tar -xf saved.tar -C restored && rmdir runs && mv restored/runs runs && exit 0
    echo 'tpu_vm.sh: $saved could not be brought back; nothing is started' >&2
    exit 1
fi
case \$said in *'matched no objects'*) exit 0 ;; esac
echo \"tpu_vm.sh: whether there is a $saved is not known, nothing is started: \$said\" >&2
exit 1"
}

# What a worker runs: start.sh is started apart from this connection. The first worker saves the workdirs as one file, so
# that no half of a copy is ever brought back. While the run stands still, files are only linked, because it replaces
# them, and those copied that it appends to; the file is made of that. The last save comes after any other has ended.
run() {
    local arguments saved=${bucket%/}/$name.tar
    printf -v arguments '%q ' "$@"
    local script="\$HOME/venv/bin/python -m jaxtickets.main $arguments >> run.log 2>&1 &
run=\$!
echo \$run > run.pid"
    if [[ -n $bucket ]]; then
        bring_back
        script="saves() { [[ \$HOSTNAME == *-0 ]]; }
copy() {
    cp -al runs saving/ || return
    cd runs || return
    find . -type f \\( -name metrics.jsonl -o -path '*/tb/*' \\) \\
        -exec cp -a --reflink=auto --parents --remove-destination -t ../saving/runs {} +
}
save() {
    rm -rf saving && mkdir saving
    kill -STOP \$run 2> /dev/null
    (copy)
    local copied=\$?
    kill -CONT \$run 2> /dev/null
    ((copied == 0)) || return
    tar -cf saved.tar -C saving runs || ((\$? == 1)) || return  # 1: a link to a file has gone meanwhile.
    gcloud storage cp saved.tar ${saved%.tar}.new.tar && gcloud storage mv ${saved%.tar}.new.tar $saved
}
rm -f ended
$script
saves && for ((second = 1; ; second++)); do
    test -e ended && break
    sleep 1
    ((second % 300)) || save
done >> save.log 2>&1 &
saving=\$!"
    fi
    script+="
wait \$run
echo \"ended with status \$?\" >> run.log"
    if [[ -n $bucket ]]; then
        script+="
touch ended
wait \$saving
saves && save >> save.log 2>&1"
    fi
    script+="
rm run.pid"
    on all "cd jaxtickets && mkdir -p runs && cat > start.sh <<'EOF'
$script
EOF
nohup setsid bash start.sh > start.log 2>&1 < /dev/null &"
}

# shellcheck disable=SC2016
stop() {
    on all 'cd jaxtickets && kill -TERM "$(cat run.pid)" && while test -e run.pid; do sleep 1; done; tail -n 3 run.log'
}

case $command in
    create) create ;;
    install) install ;;
    run) run "$@" ;;
    attach) on 0 'tail -n 40 -F jaxtickets/run.log' ;;
    stop) stop ;;
    resume)
        tpu delete "$name" || true  # A preempted TPU has to go before one of its name can come.
        create
        install
        run "$@"
        ;;
    fetch)
        do_ mkdir -p runs
        tpu scp --recurse "$name:jaxtickets/runs/*" runs/ --worker=0
        ;;
    delete) tpu delete "$name" ;;
esac
