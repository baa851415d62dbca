#!/usr/bin/env bash
# In the image's build: make the user that containers run as, with the ids of the host's user, so that what is written
# to mounted folders belongs to that user.
#
#   bash add_user.sh NAME USER_ID GROUP_ID
#
# Ids that the image has already (ubuntu's images have a user 1000) change hands. Root is there already.
set -euo pipefail

FIRST_ORDINARY_ID=1000

name=$1 user_id=$2 group_id=$3
if [[ ! $user_id:$group_id =~ ^[0-9]{1,10}:[0-9]{1,10}$ ]]; then # before bash computes with them
  echo "error: USER_ID is '$user_id' and GROUP_ID is '$group_id'; give build_image.sh's arguments as numbers." >&2
  exit 1
fi
if ((10#$user_id == 0)); then exit 0; fi

if holder=$(getent passwd "$user_id"); then userdel "${holder%%:*}"; fi
if holder=$(getent passwd "$name"); then
  IFS=: read -r _ _ holder_id _ <<<"$holder"
  if [[ $holder_id =~ ^[0-9]+$ ]] && ((holder_id >= FIRST_ORDINARY_ID)); then userdel "$name"; else name=bert; fi
fi
getent group "$group_id" >/dev/null || groupadd --gid "$group_id" bert
# No skeleton: its .bashrc would set another prompt. No log: it would be as large as the id.
useradd --uid "$user_id" --gid "$group_id" --home-dir "/home/$name" --shell /bin/bash --no-create-home --no-log-init "$name"
install --directory --owner "$user_id" --group "$group_id" "/home/$name"
