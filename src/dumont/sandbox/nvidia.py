"""The stand-in for nvidia-smi: a bash script that shows the rented GPUs and the load that a test or a person set.

It starts no other program, so that an agent may ask it every second. Temperature, power and memory follow the load.
"""

from dumont.sandbox.store import Rental

_DRIVER_NAMES = {
    **{name: f"NVIDIA GeForce {name}" for name in ("RTX 3060", "RTX 3090", "RTX 4090", "RTX 5090")},
    "A100 SXM4": "NVIDIA A100-SXM4-80GB",
    "H100 SXM": "NVIDIA H100 80GB HBM3",
}
"""The driver's names where they are not the marketplace's name after the word NVIDIA."""


def gpu_conf(rental: Rental) -> dict[str, str]:
    """Return what the script reads from `gpu.conf`."""
    hardware = rental.hardware
    return {
        "NAME": _DRIVER_NAMES.get(hardware["gpu_name"], f"NVIDIA {hardware['gpu_name']}"),
        "COUNT": str(len(rental.gpus)),
        "MEMORY": str(hardware["gpu_ram"]),
        "WATTS": str(int(hardware["gpu_max_power"])),
        "DRIVER": str(hardware["driver_version"]),
        "CUDA": str(hardware["cuda_max_good"]),
        "UUIDS": " ".join(f"GPU-{rental.box_id:08x}-0000-4000-8000-{at:012x}" for at in rental.gpus),
    }


SCRIPT = r"""#!/bin/bash
# Stand-in for nvidia-smi on a sandbox machine. Reads ../gpu.conf and ../load; starts no other program.
here=${BASH_SOURCE[0]%/*}; here=${here%/*}
. "$here/gpu.conf"
read -ra UUID <<< "$UUIDS"
loads=(0); [ -r "$here/load" ] && read -ra loads < "$here/load"
percent() {
  local word=${loads[$1]:-${loads[0]}} now=$EPOCHSECONDS
  case $word in
    idle|dead) word=0 ;;
    steady) word=90 ;;
    burst) word=$(( now % 60 < 20 ? 95 : 0 )) ;;
    train) word=$(( now % 30 < 25 ? 92 : 8 )) ;;
  esac
  [[ $word =~ ^[0-9]+$ ]] || word=0
  (( word > 100 )) && word=100
  LOAD=$word
  USED=$(( word ? MEMORY * (30 + word / 2) / 100 : 1 ))
  TEMP=$(( 34 + word * 4 / 10 )); POWER=$(( WATTS / 15 + WATTS * word * 9 / 1000 ))
}
value() {
  UNIT=
  case $1 in
    index) VALUE=$2 ;;
    name|gpu_name) VALUE=$NAME ;;
    count) VALUE=$COUNT ;;
    uuid|gpu_uuid) VALUE=${UUID[$2]} ;;
    driver_version) VALUE=$DRIVER ;;
    utilization.gpu) VALUE=$LOAD UNIT=" %" ;;
    utilization.memory) VALUE=$(( LOAD * 6 / 10 )) UNIT=" %" ;;
    memory.used) VALUE=$USED UNIT=" MiB" ;;
    memory.free) VALUE=$(( MEMORY - USED )) UNIT=" MiB" ;;
    memory.total) VALUE=$MEMORY UNIT=" MiB" ;;
    temperature.gpu) VALUE=$TEMP ;;
    power.draw) VALUE=$POWER.00 UNIT=" W" ;;
    power.limit) VALUE=$WATTS.00 UNIT=" W" ;;
    pstate) VALUE=$(( LOAD ? 2 : 8 )); VALUE=P$VALUE ;;
    fan.speed) VALUE=$(( 30 + LOAD / 2 )) UNIT=" %" ;;
    timestamp) printf -v VALUE '%(%Y/%m/%d %H:%M:%S)T.000' -1 ;;
    *) echo "Field \"$1\" is not a valid field to query."; exit 2 ;;
  esac
}
heading() {
  case $1 in
    *utilization.*|fan.speed) HEAD="$1 [%]" ;;
    memory.*|used_memory|used_gpu_memory) HEAD="$1 [MiB]" ;;
    power.*) HEAD="$1 [W]" ;;
    *) HEAD=$1 ;;
  esac
}
join() { local IFS=$'\x1f'; LINE="$*"; LINE=${LINE//$'\x1f'/, }; }
header() {
  local cells=() field
  for field in "${fields[@]}"; do heading "$field"; cells+=("$HEAD"); done
  join "${cells[@]}"; echo "$LINE"
}
query_gpu() {
  local at field cells
  [ -n "$noheader" ] || header
  for (( at = 0; at < COUNT; at++ )); do
    [[ -n $only && $only != "$at" && $only != "${UUID[$at]}" ]] && continue
    percent $at; cells=()
    for field in "${fields[@]}"; do value "$field" $at; [ -n "$nounits" ] && UNIT=; cells+=("$VALUE$UNIT"); done
    join "${cells[@]}"; echo "$LINE"
  done
}
ancestors() {
  local pid=$$ rest
  while (( pid > 1 )); do
    mine+=" $pid "; read -r rest < "/proc/$pid/stat" || return
    rest=${rest##*) }; set -- $rest; pid=$2
  done
} 2>/dev/null
worker() {
  # The busy process that is shown: the oldest one of this machine that is not waiting for our answer.
  local mine= entry vars var; PID=; ancestors
  for entry in /proc/[0-9]*; do
    entry=${entry#/proc/}
    [[ $mine == *" $entry "* ]] && continue
    mapfile -d '' vars < "/proc/$entry/environ" || continue
    for var in "${vars[@]}"; do
      [[ $var == "DUMONT_MACHINE=$DUMONT_MACHINE" && -n $DUMONT_MACHINE ]] || continue
      read -r COMMAND < "/proc/$entry/comm" && PID=$entry; return
    done
  done
} 2>/dev/null
query_apps() {
  local at field cells
  [ -n "$noheader" ] || header
  for (( at = 0; at < COUNT; at++ )); do
    percent $at; (( LOAD )) || continue
    [ -n "$PID" ] || worker; [ -n "$PID" ] || return 0
    cells=()
    for field in "${fields[@]}"; do
      case $field in
        pid) cells+=("$PID") ;;
        process_name|name) cells+=("$COMMAND") ;;
        used_memory|used_gpu_memory) UNIT=" MiB"; [ -n "$nounits" ] && UNIT=; cells+=("$USED$UNIT") ;;
        gpu_uuid) cells+=("${UUID[$at]}") ;;
        gpu_name) cells+=("$NAME") ;;
        *) echo "Field \"$field\" is not a valid field to query."; exit 2 ;;
      esac
    done
    join "${cells[@]}"; echo "$LINE"
  done
}
table() {
  local at line
  line="+-----------------------------------------------------------------------------------------+"
  printf '%(%a %b %e %H:%M:%S %Y)T\n' -1
  printf '%s\n| %-30s Driver Version: %-16s CUDA Version: %-9s |\n' "$line" "NVIDIA-SMI (stand-in)" "$DRIVER" "$CUDA"
  printf '%s\n| %-4s %-32s %-8s %-14s %-15s %-9s |\n%s\n' "$line" GPU Name Temp Power Memory-Usage GPU-Util "$line"
  for (( at = 0; at < COUNT; at++ )); do
    percent $at
    printf '| %-4s %-32s %-8s %-14s %-15s %-9s |\n' \
      $at "$NAME" "${TEMP}C" "${POWER}W / ${WATTS}W" "${USED}/${MEMORY}MiB" "${LOAD}%"
  done
  echo "$line"
}
list() {
  local at
  for (( at = 0; at < COUNT; at++ )); do echo "GPU $at: $NAME (UUID: ${UUID[$at]})"; done
}
what=table; noheader=; nounits=; only=; every=
while (( $# )); do
  case $1 in
    -L|--list-gpus) what=list ;;
    --query-gpu=*) what=query_gpu; IFS=', ' read -ra fields <<< "${1#*=}" ;;
    --query-compute-apps=*) what=query_apps; IFS=', ' read -ra fields <<< "${1#*=}" ;;
    --format=*) [[ $1 == *noheader* ]] && noheader=1; [[ $1 == *nounits* ]] && nounits=1 ;;
    -i) only=$2; shift ;;
    --id=*) only=${1#*=} ;;
    -l) every=$2; shift ;;
    --loop=*) every=${1#*=} ;;
    *) echo "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help."; exit 1 ;;
  esac
  shift
done
$what || exit $?
while [ -n "$every" ]; do read -rt "$every" <> <(:) || :; loads=(0); read -ra loads < "$here/load"; $what; done
exit 0
"""
