#!/bin/sh
# Build Crucible's wheel from the folder $1 and leave it, installed, in the folder $2: what there is
# in /opt/crucible beside the packages that it needs.
. /usr/share/crucible/images/tools/building.sh
source=$1 target=$2

cd "$source"
"$tools/bin/python3" -m hatchling build -t wheel -d /tmp/wheel >/dev/null
python3 -m venv --without-pip /opt/crucible
ls -A /opt/crucible/bin >/tmp/before
"$tools/bin/uv" pip install --quiet --python /opt/crucible/bin/python3 --no-deps --no-cache \
    --no-index --find-links /tmp/wheel crucible-platform
# When the wheel was made is the one thing that differs from build to build.
find /opt/crucible/lib -name uv_cache.json -delete
find /opt/crucible/lib -name RECORD -exec sed -i '/uv_cache\.json/d' {} +
compile_bytecode /opt/crucible/lib
mkdir -p "$target/bin"
cp -a /opt/crucible/lib "$target/lib"
for script in $(ls -A /opt/crucible/bin | grep -vxFf /tmp/before); do
    cp -a "/opt/crucible/bin/$script" "$target/bin/$script"
done
