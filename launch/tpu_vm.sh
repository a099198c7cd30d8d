#!/usr/bin/env bash
# Train on a Cloud TPU slice of one or several hosts, with one process on each.
#   launch/tpu_vm.sh train NAME ZONE TYPE --config=m1 --workdir=gs://BUCKET/runs/m1 ...
#   launch/tpu_vm.sh stop NAME ZONE      save and stop the run; Ctrl-C stops only this script
#   launch/tpu_vm.sh delete NAME ZONE    delete the slice, which costs money while it exists
# TYPE is a type of slice, such as v5litepod-16. `train` requests the slice if it does not exist or was preempted.
# The hosts run the code that is committed here. All hosts must be able to write the workdir. Environment variables:
#   DATA=gs://BUCKET/chest_xray   images to copy to each host and train on
#   SPOT=1                        request a spot slice, which is cheaper but can be preempted
#   RUNTIME=NAME                  software version of the hosts, if the default for TYPE does not fit
#   RESTARTS=20                   how often to continue a stopped run, at most
#   POLL=30                       seconds between checks of the slice
set -euo pipefail

usage() {
  echo "usage: $0 train NAME ZONE TYPE --config=CONFIG --workdir=gs://... [--FLAG=VALUE ...]" >&2
  echo "       $0 stop|delete NAME ZONE" >&2
  exit 2
}

tpus() { gcloud compute tpus "$@" --zone="$zone" --quiet; }
on_all() { tpus tpu-vm ssh "$name" --worker=all --command="$1"; }
slice_state() { tpus tpu-vm describe "$name" --format='value(state)' 2>/dev/null || true; }
request_state() { tpus queued-resources describe "$name" --format='value(state.state)' 2>/dev/null || true; }

request_slice() {
  local runtime options=()
  case "$accelerator" in
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) runtime=tpu-ubuntu2204-base ;;
  esac
  if [ -n "${SPOT:-}" ]; then options+=(--spot); fi
  tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$accelerator" \
    --runtime-version="${RUNTIME:-$runtime}" ${options[@]+"${options[@]}"}
}

wait_for_slice() {
  local request
  until [ "$(slice_state)" = READY ]; do
    installed=no
    request=$(request_state)
    echo "$0: waiting for the slice; state of its request: ${request:-none yet}" >&2
    case "$request" in
      '') request_slice ;;
      SUSPENDED) tpus queued-resources delete "$name" --force ;;
      FAILED)
        echo "$0: the request failed: see gcloud compute tpus queued-resources describe $name --zone=$zone" >&2
        exit 1
        ;;
    esac
    sleep "${POLL:-30}"
  done
}

# The hosts' Python is older than 3.11, so uv installs one. The lock waits for a run that is still active.
install_on_all() {
  local archive command
  archive=$(mktemp)
  git -C "$(dirname "$0")/.." archive --format=tar.gz --output="$archive" HEAD
  tpus tpu-vm scp "$archive" "$name:pneumojax.tar.gz" --worker=all
  rm "$archive"
  # shellcheck disable=SC2016  # expanded by the shell of the hosts
  command='set -e
    mkdir -p pneumojax data
    cd pneumojax
    exec 9>run.lock
    flock 9
    rm -rf pneumojax configs
    tar -xzf ../pneumojax.tar.gz
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --quiet uv
    python3 -m uv venv --quiet --python 3.12 --allow-existing .venv
    add="python3 -m uv pip install --quiet --python .venv"
    $add --requirement requirements.lock
    $add --constraint requirements.lock --no-build-isolation --editable ".[tpu]"'
  if [ -n "${DATA:-}" ]; then
    printf -v command '%s\n    gcloud storage rsync --recursive %q %q' "$command" "$DATA" "../data/${DATA##*/}"
  fi
  on_all "$command"
  installed=yes
}

# If the connection breaks, the run continues, and gcloud repeats the command, which waits for that run to end.
train() {
  local command status restarts=0
  printf -v command ' %q' "$@"
  if [ -n "${DATA:-}" ]; then printf -v command '%s --data=../data/%q' "$command" "${DATA##*/}"; fi
  command=".venv/bin/python -m pneumojax.main --processes=auto$command"
  command="cd pneumojax && exec flock --no-fork run.lock $command > >(exec tee -ap run.log) 2>&1"
  while true; do
    wait_for_slice
    if [ "$installed" = no ]; then install_on_all; fi
    status=0
    on_all "$command" || status=$?
    # Of several hosts, gcloud returns the status of the first that failed: 76 if another one was preempted.
    case "$status" in
      0 | 2) exit "$status" ;;
      75 | 76 | 255) ;;
      *) if [ "$(slice_state)" = READY ]; then exit "$status"; fi ;;
    esac
    if [ "$restarts" -ge "${RESTARTS:-20}" ]; then exit "$status"; fi
    restarts=$((restarts + 1))
    echo "$0: the run stopped with status $status: continuing it" >&2
  done
}

stop() { on_all 'pkill -TERM -f "[p]ython -m pneumojax.main" || test $? -eq 1'; }

delete() {
  if [ -n "$(request_state)" ]; then
    tpus queued-resources delete "$name" --force
  else
    tpus tpu-vm delete "$name"
  fi
}

if [ $# -lt 3 ]; then usage; fi
what=$1 name=$2 zone=$3 installed=no
shift 3
case "$what" in
  train)
    if [ $# -lt 2 ]; then usage; fi
    accelerator=$1
    shift
    case "$accelerator" in -*) usage ;; esac
    for flag in "$@"; do
      case "$flag" in --?*) ;; *) usage ;; esac
    done
    train "$@"
    ;;
  stop | delete)
    if [ $# -gt 0 ]; then usage; fi
    "$what"
    ;;
  *) usage ;;
esac
