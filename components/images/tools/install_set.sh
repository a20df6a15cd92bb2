#!/bin/sh
# Install the packages of the set $1 into /opt/crucible, which is made if it is not there.
. /usr/share/crucible/images/tools/building.sh
set_name=$1
stamp=$(mktemp)
trap 'rm -f "$stamp"' EXIT

if [ ! -e /opt/crucible ]; then
    python3 -m venv --without-pip /opt/crucible
    echo 'crucible:x:65532:65532:Crucible:/scratch:/usr/sbin/nologin' >>/etc/passwd
    echo 'crucible:x:65532:' >>/etc/group
    install -d -o 65532 -g 65532 -m 1777 /scratch
    compile_bytecode "$(python3 -c "$stdlib")"
fi
if [ -s "$images/$set_name/packages.txt" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    grep -v '^#' "$images/$set_name/packages.txt" |
        xargs apt-get install -qq --no-install-recommends >/dev/null
    apt-get clean
    rm -rf /var/lib/apt/lists/* /var/cache/ldconfig/* /var/log/apt /var/log/dpkg.log
fi
"$tools/bin/uv" pip install --quiet --python /opt/crucible/bin/python3 --cache-dir "$cache/uv" \
    --link-mode copy --require-hashes --build-constraints "$images/tools/requirements.txt" \
    -r "$images/$set_name/requirements.txt"
rm -f /opt/crucible/.lock
compile_bytecode /opt/crucible/lib "$stamp"
